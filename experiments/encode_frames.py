"""Write what a frozen encoder gives for every frame to disk: ids of an image tokenizer, or features of a tower.

    python experiments/encode_frames.py --config=experiments/configs/encode_frames.py --workdir=runs/mine/ids \
        --config.encoder=runs/vqgan --config.data.directory=datasets/my_video
"""

import math
from typing import Any

import encoders
import filling
import jax
import launch
import numpy as np

from lapa_jax import checkpoints, errors, hosts, sharding
from lapa_jax.data import encoded

CONFIG, WORKDIR = launch.define("encode_frames")


def report(member: filling.Member, progress: filling.Progress) -> None:
    """How much there is, on the console and in summary.json, once all processes have encoded."""
    hosts.wait("encoded")
    found = encoded.open_encoded(member.folder, member.video)
    frames, size = member.video.num_frames, math.prod(found.shape) * found.dtype.itemsize
    kind = f"{found.dtype.name}{list(found.shape)}"
    filling.say(f"[encode] {member}: {frames} frames of {kind}, {progress.format_sizeof(frames * size, 'B')}")
    summary = {"frames": frames, "shape": found.shape, "dtype": found.dtype.name, "bytes_per_frame": size}
    progress.summarise("encode", member.folder, summary)


def main(_: Any) -> None:
    config = CONFIG.value
    if config.encoder is None:
        raise errors.UserError("which encoder? give --config.encoder=PATH of a train_tokenizer run or of a tower")
    launch.start(config, share="files")
    mesh = sharding.make_mesh(devices=jax.local_devices())  # 1 each process encodes shards of its own
    members = list(filling.members(config.data, config.splits, WORKDIR.value))  # 2 the data
    with jax.set_mesh(mesh):
        choices = config.data.image_size, False if config.features else None, config.pool, config.tower.dtype
        loaded = encoders.load(config.encoder, mesh, *choices)  # 3 the encoder, by the path of its weights
        encoder = loaded.encoder
        encoded.check_choices(encoder.image_size, config.resize, config.dtype)
        checkpoints.claim(WORKDIR.value, config.to_dict())
        variables = jax.device_put(loaded.variables, sharding.tree_shardings(mesh, loaded.variables))
        run = jax.jit(lambda variables, frame: encoder(variables, frame))

        def encode(frames: np.ndarray) -> jax.Array:
            found = run(variables, sharding.global_batch(mesh, {"frame": frames})["frame"])
            return found if encoder.ids else found.astype(config.dtype)  # half as much to fetch

        for member in members:
            with filling.Progress(member, member.video.num_frames, "frame") as progress:
                encoded.write_encoded(
                    member.folder,
                    member.video,
                    encode,
                    loaded.provenance,
                    batch_size=config.batch_size,
                    image_size=encoder.image_size,
                    resize=config.resize,
                    dtype=config.dtype,
                    num_codes=encoder.num_codes if encoder.ids else None,
                    frames_per_shard=config.frames_per_shard,
                    num_threads=config.data.num_threads,
                    progress=progress,
                    **launch.shares(),
                )
            report(member, progress)


if __name__ == "__main__":
    launch.run(main)
