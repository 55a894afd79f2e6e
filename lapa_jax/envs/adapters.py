"""What adapters of other people's simulators share: imports that may fail, resized images, numpy's generator."""

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
from PIL import Image

from lapa_jax.errors import UserError


def require(module: str, environment: str, install: str) -> ModuleType:
    """Imports `module`; raises a UserError that names what is missing and ends with the sentence `install`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"the {environment} environment cannot import {module} ({error}): {install}") from error


def resized(image: np.ndarray, image_size: int | None) -> np.ndarray:
    """uint8[H, W, 3] -> uint8[image_size, image_size, 3], sides scaled each by itself; None leaves it as it is.

    The same filter as that of our datasets (`data/transforms.py`): bilinear, antialiased when it shrinks.
    """
    if image_size is None or image.shape[:2] == (image_size, image_size):
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BILINEAR))


@contextlib.contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Inside, numpy's global generator starts from `seed`; after, it goes on as if nothing had happened."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
