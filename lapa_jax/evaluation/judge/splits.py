"""Pairs divided by their episodes, never one by one: pairs of an episode show the same scene."""

import dataclasses
from collections.abc import Callable

import numpy as np

from lapa_jax.evaluation.judge.outcome import NotMeasured

SHARES = (0.5, 0.2)  # of the episodes: to fit on, to stop on; the rest is scored
DRAWS = 200


@dataclasses.dataclass(frozen=True)
class Split:
    """Three sets of rows without a common episode: int[...] each.

    Attributes:
        fit: rows that probes are fitted to.
        stop: rows that choose the strength of the ridge, and when an MLP stops.
        test: rows that are scored.
    """

    fit: np.ndarray
    stop: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, episodes: np.ndarray, seed: int) -> "Split":
        """Divides the rows of int[N] episode numbers.

        Raises:
            NotMeasured: fewer than 3 episodes, or too few pairs of them.
        """
        names = np.random.default_rng(seed).permutation(np.unique(episodes))
        if len(names) < 3:
            raise NotMeasured(f"probes need 3 episodes to fit, stop and score on; there are {len(names)}")
        stop = max(1, round(SHARES[1] * len(names)))
        test = max(1, round((1 - sum(SHARES)) * len(names)))
        parts = np.split(names, [len(names) - stop - test, len(names) - test])
        split = cls(*(np.flatnonzero(np.isin(episodes, part)) for part in parts))
        if min(map(len, (split.fit, split.stop, split.test))) < 2:
            raise NotMeasured("probes need 2 pairs or more to fit, stop and score on each")
        return split


def interval(
    statistic: Callable[[np.ndarray], float], episodes: np.ndarray, seed: int, draws: int = DRAWS
) -> list[float]:
    """95 % bootstrap interval [low, high] of a statistic of rows, drawing whole episodes.

    Args:
        statistic: rows int[M] -> number.
        episodes: int[N] of the rows.
    """
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(episodes == e) for e in np.unique(episodes)]
    drawn = (rng.integers(len(rows), size=len(rows)) for _ in range(draws))
    values = [statistic(np.concatenate([rows[i] for i in chosen])) for chosen in drawn]
    return [float(v) for v in np.nanquantile(values, (0.025, 0.975))]


def strangers(episodes: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """For each of `rows` another of them from a different episode: int[len(rows)].

    Raises:
        NotMeasured: they are all of one episode.
    """
    own = episodes[rows]
    if len(np.unique(own)) < 2:
        raise NotMeasured("codes are moved between episodes, and the pairs to score are all of one")
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(rows[own != e]) for e in own])
