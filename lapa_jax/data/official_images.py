"""Frames prepared as the published models were trained and run: OpenCV's bilinear resizing, without antialiasing.

`transforms.resize`, which our own models use, averages over the footprint of a pixel; the ids that a published
tokenizer gives depend on which of the two it is.
"""

import importlib.util
from types import ModuleType

import numpy as np

from lapa_jax import errors


def squared(image: np.ndarray, size: int = 256) -> np.ndarray:
    """uint8[H, W, 3] -> uint8[size, size, 3], by way of an image whose longer side is `size`.

    Two resamplings, the second of which stretches the shorter side.
    """
    cv2 = _cv2()
    _check(image)
    scale = size / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return _resized(cv2, _resized(cv2, image, height, width), size, size)


def centre(image: np.ndarray, share: float = 0.9) -> np.ndarray:
    """uint8[H, W, 3] -> the same size from its middle rows, int(H * share) of them, over the full width.

    The published sampler does this for policies that were trained on random crops. That it leaves the
    width alone is its own.
    """
    cv2 = _cv2()
    _check(image)
    height, width = image.shape[:2]
    rows = int(height * share)
    if not 0 < rows <= height:
        raise errors.UserError(f"share {share} leaves {rows} of {height} rows; use more than 0 and at most 1")
    start = (height - rows) // 2
    return _resized(cv2, image[start : start + rows], height, width)


def _resized(cv2: ModuleType, image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_LINEAR)


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise errors.UserError(f"an image is uint8[H, W, 3], not {image.dtype}{list(image.shape)}")


def _cv2() -> ModuleType:
    if importlib.util.find_spec("cv2") is None:
        raise errors.UserError("the published way of resizing needs OpenCV: pip install 'lapa_jax[video]'")
    import cv2

    return cv2
