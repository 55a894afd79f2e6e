"""Optical flow of frame pairs, and what of it a probe reads. Needs OpenCV."""

import importlib.util
from types import ModuleType

import numpy as np

from lapa_jax.evaluation.judge.outcome import NotMeasured

_SIDE = 128  # pixels; larger frames are shrunk to it before
_CELLS = 8
_STILL = 1e-3  # widths of the frame; the weight of flow that is noise
MISSING = "OpenCV is missing: pip install 'lapa_jax[video]'"


def available() -> bool:
    """Whether OpenCV is there."""
    return importlib.util.find_spec("cv2") is not None


def fields(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Dense flow of each two of uint8[N, H, W, 3]: float32[N, h, w, 2], right and up, in widths.

    DIS (Kroeger et al. 2016). It follows motion of a few pixels, not more than the size of what moves.

    Raises:
        NotMeasured: OpenCV is missing.
    """
    cv2 = _cv2()
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    found = [method.calc(_grey(cv2, a), _grey(cv2, b), None) for a, b in zip(before, after, strict=True)]
    width = found[0].shape[1]
    return np.stack(found) * np.float32([1 / width, -1 / width])


def overall(field: np.ndarray) -> np.ndarray:
    """One motion for each of float[N, h, w, 2], wherever in the frame it is: float64[N, 2].

    The mean of the flow weighted by its own length, so that what stands still does not count.
    """
    length = np.linalg.norm(field, axis=-1, keepdims=True)
    total = length.sum(axis=(1, 2)) + _STILL
    return (field * length).sum(axis=(1, 2), dtype=np.float64) / total


def pooled(maps: np.ndarray, cells: int = _CELLS) -> np.ndarray:
    """Means of float[N, h, w, C] over a grid of `cells` x `cells`, fewer where a side is shorter."""
    for axis in (1, 2):
        size = maps.shape[axis]
        starts = np.linspace(0, size, min(cells, size) + 1).astype(int)
        sums = np.add.reduceat(maps, starts[:-1], axis=axis, dtype=np.float32)
        maps = sums / np.diff(starts).reshape(-1, *[1] * (maps.ndim - axis - 1))
    return maps


def descriptor(field: np.ndarray) -> np.ndarray:
    """What a probe sees of float[N, h, w, 2]: the overall motion and a coarse grid, float64[N, F]."""
    return np.concatenate([overall(field), pooled(field).reshape(len(field), -1)], axis=1)


def along(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overall motion float64[N, 2] and descriptor float64[N, F] from the first to the last frame.

    Flow from frame to frame is summed: what moves further than it is wide is lost between two frames
    that are far apart.

    Args:
        frames: uint8[N, T, H, W, 3] in order of time.

    Raises:
        NotMeasured: OpenCV is missing.
    """
    steps = [fields(frames[:, i], frames[:, i + 1]) for i in range(frames.shape[1] - 1)]
    return sum(map(overall, steps)), sum(map(descriptor, steps))


def _grey(cv2: ModuleType, image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = _SIDE / max(grey.shape)
    return grey if scale >= 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _cv2() -> ModuleType:
    if not available():
        raise NotMeasured(MISSING)
    import cv2

    return cv2
