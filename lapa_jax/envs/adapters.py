"""What every adapter of someone else's simulator needs: optional imports, checked input, resized images."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
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


def chosen(wanted: Sequence[str] | None, known: Sequence[str], environment: str) -> tuple[str, ...]:
    """`wanted` (None: all of `known`) in its own order; raises UserError for an unknown family, or for none."""
    families = tuple(known if wanted is None else wanted)
    unknown = [family for family in families if family not in known]
    if unknown or not families:
        raise UserError(f"unknown {environment} families {unknown}: choose some of {', '.join(known)}")
    return families


def checked_action(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """float64[A], clipped to the box; raises UserError for anything but A finite numbers."""
    try:
        array = np.asarray(action, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != low.shape or not np.isfinite(array).all():
        raise UserError(f"action {action!r}: give {low.size} finite numbers")
    return np.clip(array, low, high)


def resized(image: np.ndarray, image_size: int | None) -> np.ndarray:
    """uint8[H, W, 3] -> uint8[image_size, image_size, 3], sides scaled each by itself; None leaves it as it is.

    The same filter as that of our datasets (`data/transforms.py`): bilinear, antialiased when it shrinks.
    """
    if image_size is None or image.shape[:2] == (image_size, image_size):
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BILINEAR))


def positive(**sizes: int | None) -> None:
    """Raises UserError unless every number given is None or at least 1."""
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: give a positive number")


@contextlib.contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Inside, numpy's global generator starts from `seed`; after, it goes on as if nothing had happened."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
