"""What a source of videos hands over: one `Recording` an episode, before any frame is decoded.

Sources (`video`, `lerobot`) say where the frames and arrays of an episode are; `clips` decodes them
once and writes RLDS that training reads.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Footage:
    """Where the frames of one camera are.

    Attributes:
        path: a video file, or a folder of images in order of their names.
        start: seconds into the file at which the episode begins.
        stop: seconds into the file at which it ends; None is the end of the file.
        frames: where a source stores images one by one, the encoded image (PNG or JPEG) of each of
            the T steps of `Recording.timestamps`; `path` then names the file they came from, for
            messages, and `start` and `stop` say nothing.
    """

    path: str
    start: float = 0.0
    stop: float | None = None
    frames: tuple[bytes, ...] | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True)
class Recording:
    """One episode.

    Attributes:
        id: unique within its source and stable between runs.
        instruction: "" where there is none.
        footage: camera ("image_primary", "image_secondary", "image_wrist") -> its frames.
        timestamps: float64[T], seconds from `Footage.start` at which steps are; None lets the reader
            sample at a rate of its choice.
        arrays: name ("action", "proprio", ...) -> float32[T, D]; empty where `timestamps` is None.
    """

    id: str
    instruction: str
    footage: Mapping[str, Footage]
    timestamps: np.ndarray | None = None
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Recordings(Protocol):
    """The episodes of one split. Can be pickled; workers call `[i]`, which may read a file.

    Attributes:
        name: of the dataset, lower-case letters, digits and underscores.
        rate: steps a second of `timestamps`; None where each file has its own.
        fingerprint: changes when any file or its metadata changes (names, sizes, times of change).
        cameras: what `footage` of every recording holds, "image_primary" first.
        array_shapes: name -> shape of one step; empty for human video.
    """

    name: str
    rate: float | None
    fingerprint: str
    cameras: tuple[str, ...]
    array_shapes: Mapping[str, tuple[int, ...]]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Recording: ...


def of_split(ids: Sequence[str], split: str, held_out: float = 0.05) -> list[int]:
    """Positions of the ids of a split, for sources that come without splits.

    "val" gets the share `held_out` (at least one, where there are two ids or more) that comes first
    in the order of a hash of the id; "train" gets the others; "all" gets every one. Adding ids
    moves few of the others.
    """
    if split == "all":
        return list(range(len(ids)))
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    count = max(round(held_out * len(ids)), 1) if len(ids) > 1 else 0
    chosen = order[:count] if split == "val" else order[count:]
    return sorted(chosen)
