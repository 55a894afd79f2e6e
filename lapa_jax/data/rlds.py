"""RLDS datasets as random-access episodes. The only file that imports TFDS.

Reads ArrayRecord and TFRecord without TensorFlow. Frames stay encoded until they are asked for,
so memory is the compressed size of the split.
"""

import dataclasses
import hashlib
import logging
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from lapa_jax import errors
from lapa_jax.data import transforms

_VIEWS = ("video", "robot")
_STEP_ARRAYS = ("action", "reward")


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The episodes of one split, in stored order.

    Attributes:
        fingerprint: hash of everything held here, and of the view.
        view: "video" (frames and instructions only) or "robot" (arrays as well).
        image_shape: (H, W, C) as stored.
        instructions: one string per episode.
        arrays: name -> one float32[T, ...] per episode; empty in the video view.
        frames: per episode, T encoded images, or uint8[T, H, W, 3] after `decoded`.
    """

    fingerprint: str
    view: str
    image_shape: tuple[int, int, int]
    instructions: tuple[str, ...]
    arrays: Mapping[str, tuple[np.ndarray, ...]]
    frames: tuple[tuple[bytes, ...] | np.ndarray, ...] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, name: str) -> tuple[np.ndarray, ...]:
        """The array called `name`, one float32[T, ...] per episode.

        Raises:
            UserError: the view has no such array.
        """
        if name in self.arrays:
            return self.arrays[name]
        if self.view == "video":
            raise errors.UserError(
                f"the video view has no {name!r}: it holds images and instructions only; "
                "open the episodes with view='robot'"
            )
        raise errors.UserError(f"no array {name!r} in the robot view; it has {sorted(self.arrays)}")

    @property
    def lengths(self) -> np.ndarray:
        """int64[E]: steps per episode."""
        return np.array([len(frames) for frames in self.frames], dtype=np.int64)

    @property
    def num_frames(self) -> int:
        return int(self.lengths.sum())

    def frame(self, episode: int, step: int, image_size: int | None = None) -> np.ndarray:
        """uint8[H, W, 3], resized to `image_size` x `image_size` when that is given."""
        stored = self.frames[episode][step]
        if isinstance(stored, bytes):
            return transforms.decode_image(stored, image_size)
        return transforms.resize(stored, image_size)

    def instruction(self, episode: int) -> str:
        return self.instructions[episode]

    def divided(self, count: int) -> tuple["Episodes", "Episodes"]:
        """The first `count` episodes, and the others.

        Raises:
            UserError: there are not more than `count`, so that nothing would be left to hold out.
        """
        if not 0 < count < len(self):
            raise errors.UserError(
                f"{count} episodes to train on and some to hold out do not fit {len(self)}; "
                "set data.episodes to less, or build the split with more"
            )
        return self._part(slice(0, count)), self._part(slice(count, None))

    def _part(self, rows: slice) -> "Episodes":
        return dataclasses.replace(
            self,
            fingerprint=f"{self.fingerprint}[{rows.start}:{rows.stop}]",
            instructions=self.instructions[rows],
            arrays={name: array[rows] for name, array in self.arrays.items()},
            frames=self.frames[rows],
        )

    def decoded(self, image_size: int | None = None) -> "Episodes":
        """The same episodes with every frame decoded once: H * W * 3 bytes a frame, no waiting.

        Worth it for small images only: 10,000 frames of 64 px are 123 MB.
        """
        steps = [range(len(frames)) for frames in self.frames]
        frames = tuple(
            np.stack([self.frame(e, t, image_size) for t in steps[e]]) for e in range(len(self))
        )
        for array in frames:
            array.setflags(write=False)
        return dataclasses.replace(self, frames=frames)


def open_episodes(
    directory: str | Path,
    split: str,
    view: Literal["video", "robot"] = "video",
    image_key: str | None = None,
) -> Episodes:
    """Reads the split once and keeps frames encoded.

    Args:
        directory: a TFDS version folder, or any parent with exactly one dataset below it.
        split: a split name; whole splits only.
        view: "video" keeps images and instructions and reads nothing else from the records;
            "robot" adds `action` float32[T, A], `reward` float32[T] and every non-image
            observation under its own name (`effector_translation` also as `effector`).
        image_key: which observation image; None takes the first by name.

    Raises:
        UserError: no dataset, split, image or instruction by that name.
    """
    if view not in _VIEWS:
        raise errors.UserError(f"no view {view!r}; choose 'video' or 'robot'")
    builder = tfds.builder_from_directory(find_dataset(directory))
    info = _split_info(builder, split)
    features = builder.info.features["steps"].feature
    image_key = _image_key(features, image_key, builder.data_dir)
    reader = _StepReader(features, image_key, view)
    episodes = [reader.read(record) for record in _records(info.filepaths, _file_format(builder))]
    num_bytes = sum(len(frame) for episode in episodes for frame in episode["frames"])
    logging.info(
        "%s, split %s: %d episodes, %.1f MB of encoded frames in memory",
        builder.data_dir, split, len(episodes), num_bytes / 1e6,
    )
    return Episodes(
        fingerprint=_fingerprint(episodes, image_key, view),
        view=view,
        image_shape=tuple(features["observation"][image_key].shape),
        instructions=tuple(episode["instruction"] for episode in episodes),
        arrays={k: tuple(episode["arrays"][k] for episode in episodes) for k in reader.arrays},
        frames=tuple(episode["frames"] for episode in episodes),
    )


def find_dataset(directory: str | Path) -> Path:
    """The one TFDS version folder at or below `directory`."""
    root = Path(directory).expanduser()
    found = sorted(
        path.parent
        for path in root.rglob("features.json")
        if (path.parent / "dataset_info.json").exists()
        # What a killed TFDS build leaves behind.
        and not any(part.startswith("incomplete.") for part in path.relative_to(root).parts)
    )
    if not found:
        raise errors.UserError(
            f"no dataset at {root}: build one with "
            f"`python data/tabletop/build.py --out={root}` or give the folder of an RLDS dataset"
        )
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise errors.UserError(f"{len(found)} datasets below {root}; give one of: {names}")
    return found[0]


def _split_info(builder: tfds.core.DatasetBuilder, split: str) -> Any:
    splits = builder.info.splits
    if split not in splits:
        raise errors.UserError(
            f"no split {split!r} in {builder.data_dir}; it has: {', '.join(sorted(splits))}"
        )
    if splits[split].num_examples == 0:
        raise errors.UserError(
            f"split {split!r} of {builder.data_dir} is empty; build it with more episodes"
        )
    return splits[split]


def _image_key(features: Any, image_key: str | None, where: str) -> str:
    if "language_instruction" not in features:
        raise errors.UserError(
            f"no steps/language_instruction in {where}; add that Text feature to the dataset"
        )
    observation = features["observation"] if "observation" in features else {}
    images = sorted(k for k in observation if isinstance(observation[k], tfds.features.Image))
    if not images:
        raise errors.UserError(
            f"no image feature in steps/observation of {where}; it has {sorted(observation)}"
        )
    if image_key is None:
        return images[0]
    if image_key not in images:
        raise errors.UserError(f"no image {image_key!r} in {where}; it has: {', '.join(images)}")
    return image_key


class _StepReader:
    """Reads only the features that the view needs; the others are never turned into arrays."""

    def __init__(self, features: Any, image_key: str, view: str):
        observation = features["observation"]
        numeric = {k for k in observation if type(observation[k]) in _NUMERIC}
        self._image_key = image_key
        self._observation = sorted(numeric) if view == "robot" else []
        self._step = [k for k in _STEP_ARRAYS if k in features] if view == "robot" else []
        self.arrays = {k: ("observation", k) for k in self._observation}
        if "effector_translation" in self.arrays:
            self.arrays["effector"] = ("observation", "effector_translation")
        self.arrays.update({k: ("step", k) for k in self._step})
        step = {k: features[k] for k in (*self._step, "language_instruction")}
        step["observation"] = {k: observation[k] for k in (*self._observation, image_key)}
        self._features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step)})
        skip = {"observation": {image_key: tfds.decode.SkipDecoding()}}
        self._decoders = {"steps": skip}

    def read(self, record: bytes) -> dict[str, Any]:
        example = self._features.deserialize_example_np(record, decoders=self._decoders)
        steps = list(example["steps"])
        return {
            "frames": tuple(step["observation"][self._image_key] for step in steps),
            "instruction": steps[0]["language_instruction"].decode() if steps else "",
            "arrays": {name: self._stack(steps, *path) for name, path in self.arrays.items()},
        }

    def _stack(self, steps: list[dict], level: str, name: str) -> np.ndarray:
        rows = [(step["observation"] if level == "observation" else step)[name] for step in steps]
        return np.asarray(rows, dtype=np.float32)


_NUMERIC = (tfds.features.Tensor, tfds.features.Scalar)


def _file_format(builder: tfds.core.DatasetBuilder) -> str:
    return builder.info.file_format.value


def _records(paths: list, file_format: str) -> Iterator[bytes]:
    readers = {"array_record": _array_records, "tfrecord": _tf_records}
    if file_format not in readers:
        raise errors.UserError(
            f"file format {file_format!r} is not read here; rebuild as array_record or tfrecord"
        )
    for path in paths:
        yield from readers[file_format](str(path))


def _array_records(path: str) -> Iterator[bytes]:
    reader = array_record_module.ArrayRecordReader(path)
    try:
        for index in range(reader.num_records()):
            yield reader.read([index])[0]
    finally:
        reader.close()


def _tf_records(path: str) -> Iterator[bytes]:
    """TFRecord framing: uint64 length, crc of it, the record, crc of it; crcs are not checked."""
    with open(path, "rb") as file:
        while header := file.read(12):
            (length,) = struct.unpack("<Q", header[:8])
            record = file.read(length + 4)
            if len(record) < length + 4:
                raise errors.UserError(f"{path} ends inside a record; fetch the file again")
            yield record[:length]


def _fingerprint(episodes: list[dict[str, Any]], image_key: str, view: str) -> str:
    # Of the contents: ArrayRecord pads files to 64 KiB, so names, sizes and counts of two builds
    # that differ in their seed alone are often equal.
    digest = hashlib.sha256(repr((view, image_key)).encode())
    for episode in episodes:
        digest.update(repr((episode["instruction"], len(episode["frames"]))).encode())
        for frame in episode["frames"]:
            digest.update(hashlib.sha256(frame).digest())
        for name, array in sorted(episode["arrays"].items()):
            digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()[:16]
