"""From predicted chunks of actions to the actions that are carried out; NumPy only."""

from collections import deque
from typing import Protocol

import numpy as np

from lapa_jax import errors


class Chunking(Protocol):
    """What is carried out before the next look. One object an episode, or a batch of episodes in lockstep."""

    def next(self, chunk: np.ndarray) -> np.ndarray:
        """Actions float[K, B, A], in order, once the chunk float[B, horizon, A] for now has been predicted."""


class Receding:
    """The first actions of each chunk.

    Args:
        execute: how many, at most a chunk's length.

    Raises:
        UserError: none would be carried out; of `next`: a chunk has fewer.
    """

    def __init__(self, execute: int) -> None:
        if execute < 1:
            raise errors.UserError(f"execute={execute}: carry out one action of each chunk or more")
        self._execute = execute

    def next(self, chunk: np.ndarray) -> np.ndarray:
        if self._execute > chunk.shape[1]:
            raise errors.UserError(f"execute={self._execute}, and chunks of {chunk.shape[1]} actions: set it lower")
        return np.moveaxis(chunk[:, : self._execute], 1, 0)


class Ensembling:
    """One action: the mean of what all chunks so far say about now (Zhao et al. 2023, "temporal ensemble").

    Args:
        decay: the i-th oldest of them has the weight exp(-decay i), so that 0 weighs all alike; with more, what was
            planned earlier counts more, and with less than 0, what was seen last.
    """

    def __init__(self, decay: float) -> None:
        self._decay, self._chunks = decay, deque()

    def next(self, chunk: np.ndarray) -> np.ndarray:
        self._chunks.append(chunk)
        while len(self._chunks) > chunk.shape[1]:  # its last action was for the step before
            self._chunks.popleft()
        count = len(self._chunks)
        about_now = np.stack([one[:, count - 1 - i] for i, one in enumerate(self._chunks)])
        order = -self._decay * np.arange(count)
        weights = np.exp(order - order.max())
        return np.tensordot(weights / weights.sum(), about_now, 1)[None].astype(chunk.dtype)


def make(execute: int, ensemble: float | None = None) -> Chunking:
    """`Ensembling` with that decay where there is one, else `Receding`."""
    return Receding(execute) if ensemble is None else Ensembling(ensemble)
