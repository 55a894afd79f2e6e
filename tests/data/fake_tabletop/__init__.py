"""A stand-in for the simulator: random walks of 9 to 12 steps, of which every third fails."""

import types

import numpy as np

WORDS = ("push the red block left", "point at the blue star", "push the green moon away")


class FakeEnv:
    metadata = {"render_fps": 10}
    action_space_description = {"names": ["dx", "dy"]}
    proprio_description = {"parts": {"effector_translation": ["x", "y"]}}
    action_space = types.SimpleNamespace(shape=(2,))

    def __init__(self, split="video", image_size=64):
        self.split, self.image_size = split, image_size

    def reset(self, seed):
        self._rng = np.random.default_rng((seed, self.split == "labelled"))
        self._position, self._step = np.zeros(2, np.float32), 0
        self._length, self._success = 9 + seed % 4, seed % 3 != 1
        self._instruction = WORDS[self._rng.integers(len(WORDS))]
        return self._observe(), self._info(False)

    def step(self, action):
        self._step += 1
        self._position = self._position + action
        ended = self._step == self._length
        success = ended and self._success
        return self._observe(), float(success), success, ended and not success, self._info(success)

    def close(self):
        pass

    def _observe(self):
        shape = (self.image_size, self.image_size, 3)
        image = self._rng.integers(0, 256, shape, dtype=np.uint8)
        return {"image": image, "instruction": self._instruction, "proprio": self._position}

    def _info(self, success):
        return {"family": "push", "success": success}


def make(image_size):
    return FakeEnv(image_size=image_size)
