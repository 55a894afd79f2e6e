"""MetaWorld's scripted experts, one a task: they see the true state and remember nothing."""

import functools
import warnings
from typing import Any

import numpy as np

from lapa_jax.envs import extras
from lapa_jax.envs.drift import Drift


class Expert:
    """`noise` is the std of a smooth perturbation of the hand's movement, in units of the action."""

    def __init__(self, noise: float = 0.0):
        self._drift = Drift(noise, 3)

    def action(self, env: Any, rng: np.random.Generator) -> np.ndarray:
        """float32[4] for the current state of `env`, within +-1.

        The perturbation is the only memory; it starts from zero with each episode.
        """
        env = env.unwrapped
        drift = self._drift.step(rng, first=env.num_steps == 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of gains that clip, which they are meant to
            action = np.clip(_policy(env.family).get_action(env.state), -1.0, 1.0).astype(np.float64)
        action[:3] += drift
        return np.clip(action, -1.0, 1.0).astype(np.float32)


@functools.cache
def _policy(task: str) -> Any:
    return extras.require("metaworld.policies", "metaworld").ENV_POLICY_MAP[f"{task}-v3"]()
