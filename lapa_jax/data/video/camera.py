"""How the camera moved: estimated, measured and undone. Of the data code the only file that imports OpenCV.

Points are spread evenly over the frame, so that a hand counts by the area that it covers, and the
motion on which most of them agree (RANSAC) is the camera's.
"""

import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from lapa_jax import errors

_WIDTH = 192  # pixels; motion is estimated on grey frames of this width
_CELL = 12  # pixels; one point in each cell of this side
_MIN_CORNER = 1e-4  # smaller eigenvalues are noise of the sensor or the codec
_MAX_ERROR = 0.5  # pixels; tracking there and back must return this close
_RANSAC = 0.5  # pixels
_MIN_POINTS = 12
_SPREAD = 0.35  # share of the frame's area that agreeing points must span
_LENS = 0.5  # seconds over which motion is measured: shaking within it counts little


def grey(frames: Sequence[np.ndarray]) -> np.ndarray:
    """uint8[T, H, W, 3] -> uint8[T, h, 192], smoothed."""
    cv2 = _cv2()
    height, width = frames[0].shape[:2]
    size = (_WIDTH, max(round(height * _WIDTH / width), _CELL))
    small = (cv2.cvtColor(cv2.resize(f, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY) for f in frames)
    return np.stack([cv2.GaussianBlur(image, (5, 5), 0) for image in small])


def thumbnails(frames: Sequence[np.ndarray]) -> np.ndarray:
    """uint8[T, H, W, 3] -> float32[T, 24, 32, 3] in 0..1."""
    cv2 = _cv2()
    small = [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small).astype(np.float32) / 255


def path(greys: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the camera's motion takes the pixels of the first frame.

    Args:
        greys: uint8[T, h, w] from `grey`.

    Returns:
        (float64[T, 3, 3], which map homogeneous pixels of frame 0 to those of frame t;
        share of the T - 1 steps that could be measured. The others count as no motion).
    """
    steps = [_step(a, b) for a, b in zip(greys, greys[1:], strict=False)]
    total = [np.eye(3)]
    for step in steps:
        total.append((np.eye(3) if step is None else step) @ total[-1])
    known = sum(step is not None for step in steps) / max(len(steps), 1)
    return np.stack(total), known


def speed(camera_path: np.ndarray, shape: tuple[int, int], rate: float) -> float:
    """Mean displacement of corners and centre over half a second, in widths of the frame a second.

    Args:
        camera_path: float64[T, 3, 3] in pixels of frames of `shape` (h, w).
        rate: frames a second.
    """
    lag = _lag(len(camera_path), rate)
    if not lag:
        return 0.0
    height, width = shape
    points = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1], [width / 2, height / 2, 1]]).T
    moved = camera_path[lag:] @ np.linalg.inv(camera_path[:-lag]) @ points
    distance = np.linalg.norm(moved[:, :2] - points[:2], axis=1).mean()
    return float(distance / width * rate / lag)


def change(greys: np.ndarray, rate: float) -> float:
    """Mean share of pixels whose grey level changes by more than 5 % of its range in half a second.

    A change of the whole frame alike, as by exposure, does not count.
    """
    lag = _lag(len(greys), rate)
    if not lag:
        return 0.0
    difference = greys[lag:].astype(np.int16) - greys[:-lag]
    difference = difference - np.median(difference, axis=(1, 2), keepdims=True)
    return float((np.abs(difference) > 0.05 * 255).mean())


def stabilised(
    frames: Sequence[np.ndarray], camera_path: np.ndarray, shape: tuple[int, int], min_common: float
) -> list[np.ndarray] | None:
    """Frames as a camera would see them that stays where it is in the middle of the clip.

    Each is cut to the largest window of the frame's aspect that all of them cover; None when that has
    less than `min_common` of the frame's area.

    Args:
        frames: T x uint8[H, W, 3].
        camera_path: float64[T, 3, 3] in pixels of frames of `shape` (h, w).
    """
    cv2 = _cv2()
    back = camera_path[len(frames) // 2] @ np.linalg.inv(camera_path)
    height, width = shape
    covered = np.full(shape, 255, np.uint8)
    for warp in back:
        covered = np.minimum(covered, cv2.warpAffine(np.full(shape, 255, np.uint8), warp[:2], (width, height)))
    window = _largest_window(covered == 255)
    if window is None or window[2] * window[3] < min_common * width * height:
        return None
    full_height, full_width = frames[0].shape[:2]
    zoom = np.diag([full_width / width, full_height / height, 1.0])
    top, left, bottom, right = (
        math.ceil(window[0] * full_height / height),
        math.ceil(window[1] * full_width / width),
        math.floor((window[0] + window[2]) * full_height / height),
        math.floor((window[1] + window[3]) * full_width / width),
    )
    warps = zoom @ back @ np.linalg.inv(zoom)
    return [
        cv2.warpAffine(frame, warp[:2], (full_width, full_height))[top:bottom, left:right]
        for frame, warp in zip(frames, warps, strict=True)
    ]


def one_thread() -> None:
    """Keeps OpenCV from starting threads of its own; for worker processes."""
    _cv2().setNumThreads(1)


def _lag(length: int, rate: float) -> int:
    return min(max(round(_LENS * rate), 1), length - 1)


def _step(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    """float64[3, 3] from pixels of `before` to those of `after`; None when it cannot be told."""
    cv2 = _cv2()
    start, end = _tracked(before, after)
    if len(start) < _MIN_POINTS:
        return None
    affine, inliers = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=_RANSAC)
    if affine is not None and _spread(start[inliers[:, 0] > 0], before.shape):
        return np.vstack([affine, [0, 0, 1]])
    # In front of a plain wall most corners are on what moves: then the few that stay still count.
    still = np.linalg.norm(end - start, axis=1) < _MAX_ERROR
    return np.eye(3) if _spread(start[still], before.shape) else None


def _tracked(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32[N, 2] each: points of `before`, and where they are in `after`."""
    cv2 = _cv2()
    start = _corners(before)
    if not len(start):
        return start, start
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None, winSize=(15, 15), maxLevel=3)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=(15, 15), maxLevel=3)
    good = (found & returned)[:, 0].astype(bool) & (np.linalg.norm(back - start, axis=1) < _MAX_ERROR)
    return start[good], there[good]


def _corners(image: np.ndarray) -> np.ndarray:
    """float32[N, 2]: the best corner (x, y) of each cell that has one."""
    strength = _cv2().cornerMinEigenVal(image, 5)
    rows, columns = image.shape[0] // _CELL, image.shape[1] // _CELL
    cells = strength[: rows * _CELL, : columns * _CELL].reshape(rows, _CELL, columns, _CELL)
    cells = cells.swapaxes(1, 2).reshape(rows * columns, _CELL * _CELL)
    best = cells.argmax(axis=1)
    good = cells.max(axis=1) > _MIN_CORNER
    row, column = np.divmod(np.arange(rows * columns), columns)
    points = np.stack([column * _CELL + best % _CELL, row * _CELL + best // _CELL], axis=1)
    return points[good].astype(np.float32)


def _spread(points: np.ndarray, shape: tuple[int, int]) -> bool:
    """Whether points lie all over the frame, as those of a background do."""
    if len(points) < _MIN_POINTS:
        return False
    low, high = np.quantile(points, (0.05, 0.95), axis=0)
    return float(np.prod(high - low)) >= _SPREAD * shape[0] * shape[1]


def _largest_window(covered: np.ndarray) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of the largest part of `covered` with its aspect and no False."""
    height, width = covered.shape
    sums = np.pad(covered.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    for w in range(width, 0, -1):
        h = max(round(height * w / width), 1)
        inside = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
        if len(places := np.argwhere(inside == h * w)):
            # The one nearest to the centre.
            offset = np.abs(places * 2 - (height - h, width - w)).sum(axis=1)
            top, left = places[offset.argmin()]
            return int(top), int(left), h, w
    return None


def _cv2() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise errors.UserError("motion filters need OpenCV; pip install 'lapa_jax[video]'") from error
    return cv2
