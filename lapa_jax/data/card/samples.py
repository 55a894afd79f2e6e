"""A few frames and pairs of a dataset, spread evenly over its episodes: for checks and contact sheets."""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import gaps, rlds, transforms

_WIDTH = 96  # pixels to which frames are averaged before they are compared: noise of the sensor goes
_CHANGED = 0.05 * 255  # grey levels; as in `camera.change`
_COMPARED = 2000  # episodes whose frames are read to find duplicates where no index has their checksums


@dataclasses.dataclass(frozen=True)
class Look:
    """Sampled frames of one camera.

    Attributes:
        spread: float64[F], see `spread`.
        broken: why the other frames could not be decoded.
        sizes: "W x H" of the frames, each once.
    """

    spread: np.ndarray
    broken: tuple[str, ...]
    sizes: tuple[str, ...]


def cameras(episodes: episodes_lib.Episodes) -> dict[str, tuple[str, ...]]:
    """Each camera once by the first of its names -> its other names."""
    names: dict[object, list[str]] = {}
    for name, frames in episodes.cameras.items():
        stored = isinstance(frames, rlds.StoredFrames)
        names.setdefault((frames.index.folder, frames.column) if stored else id(frames), []).append(name)
    return {first: tuple(others) for first, *others in names.values()}


def places(lengths: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Up to `count` (episode, step), spread evenly over all steps and drawn with a fixed seed."""
    index = transforms.StepIndex(lengths)
    edges = np.linspace(0, len(index), min(count, len(index)) + 1).astype(np.int64)
    rows = np.random.default_rng(0).integers(edges[:-1], edges[1:])
    return [index[int(row)] for row in rows]


def evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of them, evenly apart, each once."""
    return values if len(values) <= count else values[(np.arange(count) * len(values)) // count]


def pairs(episodes: episodes_lib.Episodes, steps: gaps.Steps, count: int) -> list[tuple[int, int, int]]:
    """Up to `count` (episode, step, later step) that a loader may draw; none where no episode is long enough."""
    rng = np.random.default_rng(0)
    try:
        index = steps.index(episodes)
    except errors.UserError:
        return []
    chosen = (index[int(row)] for row in evenly(np.arange(len(index)), count))
    return [(e, t, steps.later(t, int(episodes.lengths[e]), rng)) for e, t in chosen]


def look(episodes: episodes_lib.Episodes, camera: str, at: Sequence[tuple[int, int]]) -> Look:
    """The frames of a camera at some places."""
    spreads, broken, sizes = [], [], {}
    for episode, step in at:
        try:
            frame = episodes.frame(episode, step, camera=camera)
        except errors.UserError as error:
            broken.append(str(error))
            continue
        spreads.append(spread(frame))
        sizes[f"{frame.shape[1]} x {frame.shape[0]}"] = None
    return Look(np.array(spreads, np.float64), tuple(broken), tuple(sizes))


def changes(episodes: episodes_lib.Episodes, at: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """float64[P], see `change`, of the pairs whose frames can be decoded."""
    found = []
    for episode, step, later in at:
        try:
            found.append(change(episodes.frame(episode, step), episodes.frame(episode, later)))
        except errors.UserError:
            continue
    return np.array(found, np.float64)


def spread(frame: np.ndarray) -> float:
    """Std over the pixels of uint8[H, W, 3], mean of the colours: 0 for a frame of one colour."""
    return float(frame.reshape(-1, frame.shape[-1]).std(axis=0).mean())


def change(before: np.ndarray, after: np.ndarray) -> float:
    """Share of pixels whose grey level changes by more than 5 % of its range.

    A change of the whole frame alike, as by exposure, does not count.
    """
    if before.shape != after.shape:
        return 1.0
    difference = _small(after) - _small(before)
    return float((np.abs(difference - np.median(difference)) > _CHANGED).mean())


def checksums(episodes: episodes_lib.Episodes) -> tuple[np.ndarray, np.ndarray]:
    """What tells episodes apart: length, and checksums of the first, middle and last frame.

    Of all episodes where an index has the checksums, otherwise of up to 2000 whose frames are read. Those
    whose frames are all the same are left out, since nothing can be told from them.

    Returns:
        (int64[K] episodes, int64[K, 4]).
    """
    rows = np.flatnonzero(episodes.lengths > 1)
    frames = episodes.cameras[episodes.camera]
    if not isinstance(frames, rlds.StoredFrames):
        rows = evenly(rows, _COMPARED)
    last = episodes.lengths[rows] - 1
    steps = (np.zeros_like(last), last // 2, last)
    if isinstance(frames, rlds.StoredFrames):
        start = frames.index.episodes["start"][episodes.stored[rows]].astype(np.int64) + frames.skipped
        stored = frames.index.mapped(frames.column)["crc"]
        found = [stored[start + step] for step in steps]
    else:
        found = [_checksums(episodes, rows, step) for step in steps]
    table = np.stack([last + 1, *found], axis=1).astype(np.int64)
    differ = (table[:, 1:2] != table[:, 2:]).any(axis=1)
    return rows[differ], table[differ]


def _checksums(episodes: episodes_lib.Episodes, rows: np.ndarray, steps: np.ndarray) -> list[int]:
    stored = (episodes.encoded(int(e), int(t)) for e, t in zip(rows, steps, strict=True))
    return [zlib.crc32(frame if isinstance(frame, bytes) else np.ascontiguousarray(frame)) for frame in stored]


def _small(frame: np.ndarray) -> np.ndarray:
    """float32[h, w] grey levels, averaged down to at most 96 wide."""
    grey = Image.fromarray(frame).convert("L")
    if grey.width > _WIDTH:
        height = max(round(grey.height * _WIDTH / grey.width), 1)
        grey = grey.resize((_WIDTH, height), Image.Resampling.BOX)
    return np.asarray(grey, np.float32)
