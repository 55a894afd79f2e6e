"""Stage 1 -> 2: write the latent action of every frame pair of a video dataset to disk.

    python experiments/label_latents.py --config=experiments/configs/label_latents.py:demo \
        --workdir=runs/demo/latents --config.laq=runs/demo/laq
"""

import collections
import pathlib
from collections.abc import Callable
from typing import Any

import filling
import jax
import launch
import numpy as np

from lapa_jax import checkpoints, errors, hosts, sharding
from lapa_jax import trained as trained_lib
from lapa_jax.data import labelled, latents
from lapa_jax.data.stored import storage
from lapa_jax.models import laq

CONFIG, WORKDIR = launch.define("label_latents")


def make_label(model: Any, state: Any, mesh: jax.sharding.Mesh) -> Callable:
    """(frame, next_frame uint8[B, H, W, 3]) -> codes int32[B, N], one jitted call over the mesh, not waited for."""
    variables = {"params": state.params, **state.variables}
    if not model.discrete:
        raise errors.UserError("this LAQ is continuous (model.quantizer=kl) and has no codes; label with another")
    if model.phase == "scene":
        raise errors.UserError("this LAQ is of phase scene: train phase task from it, whose codes are the labels")
    encode = jax.jit(lambda v, a, b: model.apply(v, a, b, method="encode").codes)

    def label(frame: np.ndarray, next_frame: np.ndarray) -> jax.Array:
        pair = sharding.global_batch(mesh, {"frame": frame, "next_frame": next_frame})
        return encode(variables, pair["frame"], pair["next_frame"])

    return label


def in_dtype(model: laq.LatentActionQuantizer, dtype: str | None) -> laq.LatentActionQuantizer:
    """The model computing in `dtype`; None leaves it as it was trained."""
    if dtype is None:
        return model
    if dtype not in ("float32", "bfloat16"):
        raise errors.UserError(f"config.dtype {dtype!r}: choose float32 or bfloat16")
    return model.clone(backbone_args={**model.backbone_args, "dtype": dtype})


def report(member: filling.Member, progress: filling.Progress) -> latents.Latents:
    """How often each code is used, on the console and in summary.json, once all processes have labelled."""
    hosts.wait("labelled")
    labels = latents.open_latents(member.folder, member.video)
    codes = np.concatenate([labels.codes(e) for e in range(len(labels))])
    usage = np.bincount(codes.reshape(-1), minlength=labels.num_codes) / max(codes.size, 1)
    filling.say(f"[label] {member}: {len(codes)} pairs, usage {np.round(usage, 3).tolist()}")
    progress.summarise("label", member.folder, {"pairs": len(codes), "usage": usage})
    return labels


def main(_: Any) -> None:
    config = CONFIG.value
    if config.laq is None:
        raise errors.UserError("which LAQ? give --config.laq=FOLDER of a train_laq run")
    launch.start(config, share="files")
    mesh = sharding.make_mesh(devices=jax.local_devices())  # 1 each process labels shards of its own
    with jax.set_mesh(mesh):
        model, state, trained = trained_lib.load_laq(config.laq, mesh)  # 2 the quantizer, from its own checkpoint
        checkpoints.claim(WORKDIR.value, config.to_dict())
        label = make_label(in_dtype(model, config.dtype), state, mesh)
        origin = {"path": str(pathlib.Path(config.laq)), "step": int(state.step), "config": storage.digest(trained)}
        origin |= {} if config.dtype is None else {"dtype": config.dtype}
        data = trained["data"] | {"directory": config.directory or trained["data"]["directory"]}
        labelled_splits: dict[int, dict] = collections.defaultdict(dict)
        for member in filling.members(data, config.splits, WORKDIR.value):  # 3 pairs of training, and held-out ones
            video = member.video
            gap = video.steps_of(data["gap"])
            provenance = latents.Provenance(
                origin, video.fingerprint, gap, data["gap"], model.code_length, model.num_codes
            )
            with filling.Progress(member, latents.num_pairs(video, gap), "pair") as progress:
                latents.write_latents(
                    member.folder, video, label, provenance,
                    batch_size=config.batch_size, image_size=data["image_size"], progress=progress,
                    num_threads=config.num_threads, **launch.shares(),
                )
            labelled_splits[member.number][member.split] = video, report(member, progress)
        if config.write_rlds:  # 4 the trajectories themselves, for other readers
            for i, splits in labelled_splits.items():
                out = labelled.write(pathlib.Path(WORKDIR.value) / "rlds" / str(i), splits, **launch.shares())
                filling.say(f"[label] RLDS with latent actions: {out}")


if __name__ == "__main__":
    launch.run(main)
