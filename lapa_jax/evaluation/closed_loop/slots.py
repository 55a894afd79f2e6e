"""A place where one episode after the other is played; it lives where its environment lives."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.evaluation import films
from lapa_jax.evaluation.closed_loop import drivers, observations, worlds

SCRIPTED_STEPS = 25
"""Steps that a scripted driver takes between two answers, so that a hanging environment is noticed."""


class Slot:
    """One environment at a time; it is made anew when an episode of another family begins."""

    def __init__(self, world: worlds.World) -> None:
        self._world = world
        self._family: str | None = None
        self._env: Any = None

    def begin(
        self, start: worlds.Start, wanted: observations.Wanted | None, keep_frames: bool = False
    ) -> worlds.View:
        """Starts an episode, which family and seed determine.

        Args:
            wanted: what the policy is shown; None for scripted drivers.
            keep_frames: whether `film` may be asked for at the end.
        """
        if start.family != self._family:
            self.close()
            self._env, self._family = self._world.make(start.family), start.family
        self._began, self._wanted, self._length, self._success = time.perf_counter(), wanted, 0, False
        observation, _ = self._env.reset(seed=start.seed)
        self._instruction = str(observation["instruction"])
        self._frames = [observation["image"]] if keep_frames else None
        scripted = drivers.DRIVERS.get(start.driver)
        self._driver = scripted(self._world, self._env, start.seed) if scripted else None
        return self._view(observation, done=False)

    def go_on(self, actions: Sequence[np.ndarray] | None) -> worlds.View:
        """Carries out actions float[K, A], or some of the scripted driver's; stops where the episode ends."""
        done, shape = False, self._env.action_space.shape
        for i in range(SCRIPTED_STEPS if actions is None else len(actions)):
            action = self._driver() if actions is None else worlds.checked_action(actions[i], shape)
            observation, _, terminated, truncated, info = self._env.step(action)
            self._length += 1
            if self._frames is not None:
                self._frames.append(observation["image"])
            done = bool(terminated or truncated)
            if done:
                self._success = _success(info)
                break
        return self._view(observation, done)

    def film(self, paths: Sequence[pathlib.Path]) -> None:
        """Writes the episode that ended, once for each path, by its suffix."""
        fps = self._env.metadata.get("render_fps", films.FPS)
        for path in paths:
            films.write(path, np.stack(self._frames), self._instruction, fps)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = self._family = None

    def _view(self, observation: dict[str, Any], done: bool) -> worlds.View:
        shown = None if done or self._wanted is None else observations.shown(observation, self._wanted)
        seconds = time.perf_counter() - self._began
        return worlds.View(shown, self._instruction, done, self._success, self._length, seconds)


def _success(info: dict[str, Any]) -> bool:
    if "success" not in info:
        raise errors.UserError(f"the environment's info has no 'success' at the end, only: {', '.join(info)}")
    return bool(info["success"])
