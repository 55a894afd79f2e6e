"""Scripted drivers by name: they act where the environment is, since the expert reads its true state."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lapa_jax.evaluation.closed_loop import worlds

Driver = Callable[[], np.ndarray]
"""() -> the action for the present state."""


def _expert(world: worlds.World, env: Any, seed: int) -> Driver:
    scripted, rng = world.expert(), np.random.default_rng(seed)
    return lambda: scripted.action(env, rng)


def _random(world: worlds.World, env: Any, seed: int) -> Driver:
    del world
    env.action_space.seed(seed)
    return env.action_space.sample


DRIVERS: dict[str, Callable[[worlds.World, Any, int], Driver]] = {"expert": _expert, "random": _random}
"""name -> (world, environment, seed) -> a driver for one episode: the upper and the lower bound."""
