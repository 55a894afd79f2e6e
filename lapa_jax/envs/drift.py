"""The perturbation of scripted experts: smooth, so that what follows shows how to come back."""

import numpy as np

MEMORY = 0.8  # AR(1) coefficient, per step


class Drift:
    """AR(1) noise with standard deviation `noise` once it has run for a while; starts at zero."""

    def __init__(self, noise: float, size: int):
        self._noise, self._size = noise, size
        self._value = np.zeros(size)

    def step(self, rng: np.random.Generator, first: bool) -> np.ndarray:
        """float64[size]; `first` begins an episode, and forgets what was before."""
        if first:
            self._value = np.zeros(self._size)
        fresh = rng.normal(0.0, self._noise * np.sqrt(1 - MEMORY**2), self._size)
        self._value = MEMORY * self._value + fresh
        return self._value
