"""An environment that is not the tabletop: two cameras, large and not square, seven numbers an action, no rate."""

import types

import numpy as np


class Arm:
    metadata: dict = {}

    def __init__(self):
        limit = np.full(7, np.inf, np.float32)
        self.action_space = types.SimpleNamespace(shape=(7,), low=-limit, high=limit)

    def reset(self, *, seed):
        self._step, self._seed = 0, seed
        return self._observe(), {}

    def step(self, action):
        assert action.shape == (7,)
        self._step += 1
        return self._observe(), 0.0, False, self._step == 40, {}

    def close(self):
        pass

    def _observe(self):
        image = np.full((240, 320, 3), 60, np.uint8)
        image[100:140, 10 * self._step % 280 :][:, :40] = 220
        proprio = np.float32([self._step / 3, 0, 0])
        return {"image": image, "wrist": image[:120, :120], "proprio": proprio, "instruction": ""}


def make():
    return Arm()
