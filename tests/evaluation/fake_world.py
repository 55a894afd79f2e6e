"""A world without a simulator, which worker processes can import: walk along a line to where the instruction says.

An episode is won at the goal and lost after `STEPS`. Some families are what can go wrong: `crash` ends its process,
`hang` never answers, `raise` raises, `blind` shows no image.
"""

import dataclasses
import os
import time

import gymnasium
import numpy as np

from lapa_jax.evaluation.closed_loop import worlds

FAMILIES = ("left", "right")
STEPS = 12


class Env(gymnasium.Env):
    metadata = {"render_fps": 5}

    def __init__(self, family, families=FAMILIES):
        self.family, self.families = family, families
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        sign = -1 if self.family == "left" else 1
        self.place, self.goal = 0.0, sign * float(self.np_random.uniform(1, 8))
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        if self.family == "crash" and self.steps == 3:
            os._exit(7)
        if self.family == "hang" and self.steps == 3:
            time.sleep(600)
        if self.family == "raise" and self.steps == 3:
            raise RuntimeError("the arm\nfell off")
        self.place += float(np.clip(action[0], -1, 1))
        self.steps += 1
        success = abs(self.place - self.goal) < 0.6
        return self._observe(), 0.0, success, self.steps >= STEPS and not success, {"success": success}

    def _observe(self):
        image = np.zeros((16, 16, 3), np.uint8)
        image[:, int(np.clip(self.place + 8, 0, 15))] = 255
        proprio = np.array([self.place], np.float32)
        observation = {"image": image, "instruction": f"go to {self.goal:.2f}", "proprio": proprio}
        if self.family == "blind":
            observation["image"] = image.astype(np.float32)
        return observation


class Expert:
    def action(self, env, rng):
        return np.array([np.sign(env.goal - env.place), rng.normal()], np.float32)


@dataclasses.dataclass(frozen=True)
class World(worlds.World):
    name: str = "line"

    def make(self, *families):
        return Env(*families) if families else Env("left")

    def expert(self):
        return Expert()


class Walker:
    """A policy that reads where to go from the instruction; it slows down by what it sees of itself."""

    metadata = {"cameras": ["image"], "proprio_dim": 1}

    def __init__(self, horizon=3):
        self.horizon, self.sizes = horizon, []

    def infer(self, observation, seed=None):
        self.sizes.append(len(observation["image"]))
        # A server warms up with empty words.
        goals = np.array([float(words.split()[-1]) if words else 0.0 for words in observation["instruction"]])
        speed = np.clip(goals - observation["proprio"][:, 0], -1, 1) * 0.9
        seen = observation["image"][:, 0, :, 0].argmax(1) / 1000
        actions = np.stack([speed + seen, np.zeros_like(speed)], -1).astype(np.float32)
        return {"actions": np.repeat(actions[:, None], self.horizon, 1)}
