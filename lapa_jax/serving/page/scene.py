"""An episode as far as it went, and what the policy says about it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax import errors


class Scene:
    """
    Attributes:
        instruction: the environment's own.
        observation: of now.
        step: steps so far.
        outcome: None, or how it ended: "success" or "over". Success is that of the environment's own task.
    """

    def __init__(self, observation: Mapping[str, Any]) -> None:
        self.instruction, self.observation = str(observation.get("instruction", "")), observation
        self.step, self.outcome = 0, None

    @property
    def image(self) -> np.ndarray:
        """uint8[H, W, 3]; raises UserError where the environment shows none."""
        if "image" not in self.observation:
            raise errors.UserError("This environment shows no `image`: choose another one.")
        return self.observation["image"]

    def passed(self, observation: Mapping[str, Any], ended: bool, success: bool) -> None:
        """One step further."""
        self.observation, self.step = observation, self.step + 1
        if ended:
            self.outcome = "success" if success else "over"


def checked(actions: Any, dim: int) -> np.ndarray:
    """A policy's actions as float32[horizon, A].

    Raises:
        UserError: they are not that, or not finite.
    """
    chunk = np.asarray(actions, np.float32)
    if chunk.ndim != 2 or chunk.shape[1] != dim or not len(chunk):
        raise errors.UserError(f"The policy gave actions {list(chunk.shape)} instead of [horizon, {dim}].")
    if not np.isfinite(chunk).all():
        raise errors.UserError("The policy gave an action that is not finite; it was not carried out.")
    return chunk
