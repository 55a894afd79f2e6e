"""The benchmark's dataset: one set of episodes as TFRecord, two kinds of ArrayRecord, and folders of images.

Its features are those of Bridge V2. The splits are "full" and "half"; the latter is the first half
of the shards again, as links.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tqdm
from array_record.python import array_record_module

from lapa_jax import errors
from lapa_jax.data.stored import records, storage, writing
from pipeline import scenes

NAME, RATE, SHARDS, QUALITY = "benchmark", 5, 16, 95
SPLITS = {"full": SHARDS, "half": SHARDS // 2}
FORMATS = {  # name -> options of ArrayRecord's writer
    "tfrecord": None,
    "array_record": "group_size:1,uncompressed",
    "array_record_compressed": "group_size:1",
}
FRAMES = "frames"
_READY = "benchmark.json"
_INSTRUCTIONS = ("put the block on the cloth", "open the drawer", "move the can near the sponge")


@dataclasses.dataclass(frozen=True)
class Size:
    """What was made.

    Attributes:
        episodes: of the split "full".
        frames: of the first camera.
        jpeg_bytes: of the frames of the first camera.
        record_bytes: of all records.
    """

    episodes: int
    frames: int
    jpeg_bytes: int
    record_bytes: int


def make(root: Path, gigabytes: float, cameras: int, videos: str | None, workers: int) -> tuple[Path, Size]:
    """Makes the dataset below `root`, or finds it there.

    Returns:
        (folder, size).

    Raises:
        UserError: there are no videos in `videos`, more cameras than Bridge has, or no bytes.
    """
    source = f"{scenes.identity(videos):08x}" if videos else "drawn"
    folder = root / f"{gigabytes:g}gb-{cameras}cam-{source}"
    if not (folder / _READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        _make(folder, gigabytes, cameras, videos, workers)
    return folder, Size(**json.loads((folder / _READY).read_text()))


def directory(folder: Path, form: str) -> Path:
    """The TFDS version folder of one format."""
    return folder / form / NAME / "1.0.0"


def _make(folder: Path, gigabytes: float, cameras: int, videos: str | None, workers: int) -> None:
    if not 1 <= cameras <= 4:
        raise errors.UserError(f"--cameras={cameras}: Bridge has 1 to 4")
    if not gigabytes > 0:
        raise errors.UserError(f"--gigabytes={gigabytes:g} holds no episode; use more than 0")
    for form in FORMATS:
        directory(folder, form).mkdir(parents=True)
    (folder / FRAMES).mkdir()
    size = int(gigabytes * 1e9 / SHARDS)
    shard = functools.partial(_shard, folder, videos, size, cameras)
    with contextlib.ExitStack() as stack:
        run = map
        if workers > 1:
            context = multiprocessing.get_context("spawn")
            run = stack.enter_context(concurrent.futures.ProcessPoolExecutor(workers, context)).map
        made = list(tqdm.tqdm(run(shard, range(SHARDS)), "make the dataset", SHARDS, unit="shard"))
    for form in FORMATS:
        _finish(directory(folder, form), form, cameras, made)
    total = {field.name: sum(getattr(one, field.name) for one in made) for field in dataclasses.fields(Size)}
    storage.write_json(folder / _READY, total)


_scenes = functools.cache(scenes.open_scenes)  # once a process


def _features(cameras: int) -> Any:
    images = {f"image_{i}": (scenes.SIZE, scenes.SIZE, 3) for i in range(cameras)}
    return writing.episode_features(images, {"state": (7,), "action": (7,)}, {"file_path": str})


def _shard(folder: Path, videos: str | None, size: int, cameras: int, shard: int) -> Size:
    """Writes one shard in every format, of `size` bytes or little more."""
    features, made = _features(cameras), Size(0, 0, 0, 0)
    paths = {form: directory(folder, form) / _file(form, "full", shard, SHARDS) for form in FORMATS}
    writers = {
        form: array_record_module.ArrayRecordWriter(str(paths[form]), options)
        for form, options in FORMATS.items()
        if options
    }
    with open(paths["tfrecord"], "wb") as tfrecord:
        while made.record_bytes < size:
            number = shard * 100_000 + made.episodes
            images = list(zip(*_images(_scenes(videos), number, cameras), strict=True))
            record = features.serialize_example(_example(number, images))
            tfrecord.write(_framed(record))
            for writer in writers.values():
                writer.write(record)
            _write_images(folder / FRAMES / f"episode_{number:07d}", images[0])
            made = Size(
                made.episodes + 1,
                made.frames + len(images[0]),
                made.jpeg_bytes + sum(map(len, images[0])),
                made.record_bytes + len(record),
            )
    for writer in writers.values():
        writer.close()
    return made


def _images(found: scenes.Scenes, number: int, cameras: int) -> list[list[bytes]]:
    """JPEGs as TFDS encodes them, [step][camera]."""
    return [
        [simplejpeg.encode_jpeg(frame, QUALITY, "RGB", "420") for frame in frames]
        for frames in found.episode(number, cameras)
    ]


def _example(number: int, images: Sequence[Sequence[bytes]]) -> dict[str, Any]:
    rng, steps = np.random.default_rng(number), len(images[0])
    state = np.cumsum(rng.normal(0, 0.01, (steps, 7)), axis=0).astype(np.float32)
    action = np.diff(state, axis=0, append=state[-1:])
    state[:, 6] = action[:, 6] = (np.arange(steps) < steps // 2).astype(np.float32)
    named = {f"image_{i}": frames for i, frames in enumerate(images)}
    text = _INSTRUCTIONS[number % len(_INSTRUCTIONS)]
    return writing.episode_example(
        named, {"state": state, "action": action}, text, {"file_path": str(number)}, True
    )


def _framed(record: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(record))
    parts = length, struct.pack("<I", records.masked_crc(length)), record
    return b"".join((*parts, struct.pack("<I", records.masked_crc(record))))


def _write_images(folder: Path, images: Sequence[bytes]) -> None:
    """A clip as official LAPA wants it: four characters and a number."""
    folder.mkdir()
    for step, image in enumerate(images):
        (folder / f"img_{step:05d}.jpg").write_bytes(image)


def _finish(folder: Path, form: str, cameras: int, made: Sequence[Size]) -> None:
    """The metadata of TFDS, and the links of the half."""
    splits = []
    for split, count in SPLITS.items():
        for shard in range(count):
            path = folder / _file(form, split, shard, count)
            if not path.exists():
                os.link(folder / _file(form, "full", shard, SHARDS), path)
        splits.append(
            {
                "name": split,
                "shardLengths": [str(one.episodes) for one in made[:count]],
                "numBytes": str(sum(one.record_bytes for one in made[:count])),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": NAME, "version": "1.0.0", "fileFormat": _suffix(form), "splits": splits}
    storage.write_json(folder / "features.json", _features(cameras).to_json())
    storage.write_json(folder / "dataset_info.json", info)


def _suffix(form: str) -> str:
    return "tfrecord" if form == "tfrecord" else "array_record"


def _file(form: str, split: str, shard: int, count: int) -> str:
    return f"{NAME}-{split}.{_suffix(form)}-{shard:05d}-of-{count:05d}"
