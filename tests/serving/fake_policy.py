"""A policy in NumPy: its answer tells which image, words and state it was asked about."""

import threading
import time

import numpy as np

from lapa_jax import errors

HORIZON, ACTION_DIM = 4, 3


class FakePolicy:
    """
    Args:
        seconds: that a call takes, whatever its batch.
        cameras, proprio_dim, history: what it takes.

    Attributes:
        batches: sizes of the calls so far.
        seeds: of those that had one.
    """

    def __init__(self, seconds=0.0, cameras=("image",), proprio_dim=None, history=0, image_size=16):
        self.seconds, self.batches, self.seeds, self.lock = seconds, [], [], threading.Lock()
        self.metadata = {
            "head": "fake", "horizon": HORIZON, "action_dim": ACTION_DIM, "cameras": list(cameras),
            "image_size": image_size, "proprio_dim": proprio_dim, "history": history,
            "action_space": {"names": ["x", "y", "z"]},
            "normalisation": {"mean": [0.0, 0.0, 0.0]}, "code_length": 2, "num_codes": 8, "checkpoint": "0" * 64,
        }  # fmt: skip

    def infer(self, observation, seed=None):
        assert self.lock.acquire(blocking=False), "called twice at a time"
        try:
            return self._infer(observation, seed)
        finally:
            self.lock.release()

    def _infer(self, observation, seed):
        words = observation["instruction"]
        self.batches.append(len(words))
        self.seeds += [] if seed is None else [seed]
        time.sleep(self.seconds)
        if "refuse" in words:
            raise errors.UserError("shorten the instruction")
        if "crash" in words:
            raise ZeroDivisionError
        actions = np.stack(
            [
                expected({**{name: observation[name][i] for name in observation}, "instruction": words[i]}, seed)
                for i in range(len(words))
            ]
        )
        actions[[i for i, one in enumerate(words) if one == "nan"]] = np.nan
        if "short" in words:
            actions = actions[:, :2]
        return {"actions": actions, "latents": np.tile(np.int32([5, 6]), (len(words), 1))}


def expected(observation, seed=None):
    """The actions float32[4, 3] that belong to one observation."""
    cameras = [value for name, value in observation.items() if np.ndim(value) == 3]
    state = float(np.sum(observation.get("proprio", 0.0))) + float(np.sum(observation.get("last_latents", 0)))
    row = np.float32([sum(c.mean() for c in cameras), len(observation["instruction"]), state + (seed or 0)])
    return row + np.arange(HORIZON, dtype=np.float32)[:, None]


def image(value=0, size=16):
    return np.full((size, size, 3), value, np.uint8)
