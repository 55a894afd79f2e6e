"""What adapters of other people's simulators share: imports that may fail, steps, images, numpy's generator."""

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

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


class Steps:
    """What follows a step of the simulator, of an environment that has `_look` and `_info`."""

    _observation: dict[str, Any] | None

    def render(self) -> np.ndarray | None:
        """The image of the last observation; None before the first `reset`."""
        return None if self._observation is None else self._observation["image"]

    def _stepped(self, raw: Any, done: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """What `step` returns, of what the simulator shows and whether it says that the task is done."""
        self.num_steps += 1
        self._observation, success = self._look(raw), bool(done)
        truncated = self.num_steps >= self.max_steps and not success
        return self._observation, float(success), success, truncated, self._info(success)


@contextlib.contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Inside, numpy's global generator starts from `seed`; after, it goes on as if nothing had happened."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
