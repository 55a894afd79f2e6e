"""Do latent actions behave like motions: undone by going back, added up by going on (ALAM's two laws)?"""

from typing import Any

import numpy as np

from lapa_jax.evaluation.judge import motion
from lapa_jax.evaluation.judge.meters import direction
from lapa_jax.evaluation.judge.splits import interval

_CONSTANT = 0.01  # of the spread of the motion; predictions that vary less say nothing


def reversal(
    forward: np.ndarray, backward: np.ndarray, wanted: np.ndarray, episodes: np.ndarray, seed: int
) -> dict[str, Any]:
    """What a probe reads off the code of (x2, x1), against the true motion turned round.

    `flip` is the mean cosine between what it reads backward and the opposite of what it reads forward.

    Args:
        forward, backward: float64[N, D], read off the codes of (x1, x2) and (x2, x1).
        wanted: float64[N, D], motion from x1 to x2.
        episodes: int[N].
    """

    def score(rows: np.ndarray) -> float:
        return motion.score(backward[rows], -wanted[rows])

    rows = np.arange(len(wanted))
    return {
        "r2": score(rows),
        "interval": interval(score, episodes, seed),
        "forward_r2": motion.score(forward, wanted),
        "flip": direction(backward, -forward),
    }


def composition(
    first: np.ndarray, second: np.ndarray, direct: np.ndarray, spread: np.ndarray, episodes: np.ndarray, seed: int
) -> dict[str, Any]:
    """Whether the motions read off (x1, x2) and (x2, x3) add up to that read off (x1, x3).

    By correlation, not by R2: a code that has no name for a motion twice as long still points its way.

    Args:
        first, second, direct: float64[M, D], read off the three codes.
        spread: float64[D], standard deviation of the true motion.
        episodes: int[M].
    """
    total = first + second

    def score(rows: np.ndarray) -> float:
        return _correlation(total[rows], direct[rows], _CONSTANT * spread)

    rows = np.arange(len(total))
    return {
        "correlation": score(rows),
        "interval": interval(score, episodes, seed),
        "cosine": direction(total, direct),
        "r2": motion.score(total, direct),
        "triples": len(total),
    }


def _correlation(a: np.ndarray, b: np.ndarray, least: np.ndarray) -> float:
    """Mean over columns of the correlation of float[N, D]; 0 where one side varies less than `least`."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    std_a, std_b = a.std(axis=0), b.std(axis=0)
    varies = np.minimum(std_a, std_b) > least
    return float(np.mean(np.where(varies, (a * b).mean(axis=0) / np.where(varies, std_a * std_b, 1.0), 0.0)))
