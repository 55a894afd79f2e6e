"""Stage 1 -> 2: write the latent action of every frame pair of a video dataset to disk.

    python experiments/label_latents.py --config=experiments/configs/label_latents.py:demo \
        --workdir=runs/demo/latents --config.laq=runs/demo/laq
"""

import collections
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import launch
import numpy as np

from lapa_jax import checkpoints, errors, metrics, sharding
from lapa_jax import trained as trained_lib
from lapa_jax.data import episodes, labelled, latents, sources
from lapa_jax.data.stored import storage

CONFIG, WORKDIR = launch.define("label_latents")


def make_label(model: Any, state: Any, mesh: jax.sharding.Mesh) -> Callable:
    """(frame, next_frame uint8[B, H, W, 3]) -> codes int32[B, N], one jitted call over the mesh."""
    variables = {"params": state.params, **state.variables}
    if not model.discrete:
        raise errors.UserError("this LAQ is continuous (model.quantizer=kl) and has no codes; label with another")
    encode = jax.jit(lambda v, a, b: model.apply(v, a, b, method="encode").codes)

    def label(frame: np.ndarray, next_frame: np.ndarray) -> np.ndarray:
        pair = sharding.global_batch(mesh, {"frame": frame, "next_frame": next_frame})
        return np.asarray(encode(variables, pair["frame"], pair["next_frame"]))

    return label


def report(video: episodes.Episodes, split: str, folder: pathlib.Path) -> latents.Latents | None:
    """How often each code is used, on the console and in summary.json; None while other processes label."""
    if not latents.finished(folder):
        print(f"[label] {video.name} {split}: done here, other processes are not", flush=True)
        return None
    labels = latents.open_latents(folder, video)
    codes = np.concatenate([labels.codes(e) for e in range(len(labels))])
    usage = np.bincount(codes.reshape(-1), minlength=labels.num_codes) / max(codes.size, 1)
    print(f"[label] {video.name} {split}: {len(codes)} pairs, usage {np.round(usage, 3).tolist()}", flush=True)
    metrics.summarise(folder, {"pairs": len(codes), "usage": usage})
    return labels


def main(_: Any) -> None:
    config = CONFIG.value
    if config.laq is None:
        raise errors.UserError("which LAQ? give --config.laq=FOLDER of a train_laq run")
    launch.start(config)
    mesh = sharding.make_mesh(devices=jax.local_devices())  # 1 each process labels shards of its own
    with jax.set_mesh(mesh):
        model, state, trained = trained_lib.load_laq(config.laq, mesh)  # 2 the quantizer, from its own checkpoint
        checkpoints.claim(WORKDIR.value, config.to_dict())
        label = make_label(model, state, mesh)
        origin = {"path": str(pathlib.Path(config.laq)), "step": int(state.step), "config": storage.digest(trained)}
        data = trained["data"] | {"directory": config.directory or trained["data"]["directory"]}
        labelled_splits: dict[int, dict] = collections.defaultdict(dict)
        for split in config.splits:  # 3 the same pairs it was trained on, and held-out ones
            mixture = sources.open_mixture(data, split, "video")
            for i, video in enumerate(mixture.members):
                provenance = latents.Provenance(
                    origin, video.fingerprint, video.steps_of(data["gap"]), data["gap"],
                    model.code_length, model.num_codes,
                )
                folder = latents.write_latents(
                    latents.folder(WORKDIR.value, split, mixture, i), video, label, provenance,
                    batch_size=config.batch_size, image_size=data["image_size"], **launch.shares(),
                )
                labelled_splits[i][split] = video, report(video, split, folder)
        if config.write_rlds:  # 4 the trajectories themselves, for other readers
            for i, splits in labelled_splits.items():
                if all(labels is not None for _, labels in splits.values()):
                    out = labelled.write(pathlib.Path(WORKDIR.value) / "rlds" / str(i), splits)
                    print(f"[label] RLDS with latent actions: {out}", flush=True)


if __name__ == "__main__":
    launch.run(main)
