"""Action swap: codes of one clip applied to the first frame of another, and the motion that results."""

from typing import Any

import numpy as np

from lapa_jax.evaluation.judge import motion
from lapa_jax.evaluation.judge.meters import Meter, direction
from lapa_jax.evaluation.judge.splits import interval

_SHUFFLES = 20
_READABLE = 0.1  # cosine by which own reconstructions must be above chance to be a ceiling


def measure(
    swapped: np.ndarray, own: np.ndarray, wanted: np.ndarray, meter: Meter, episodes: np.ndarray, seed: int
) -> dict[str, Any]:
    """Motion read off decoded frames against the motion of the clips A that the codes come from.

    `cosine` and `r2` are those of the swap, `ceiling_` of A's codes on A's own first frame, `chance_` of the
    swap against the motion of another A. `of_ceiling` is the share of what the ceiling is above chance that is
    left after the swap; 0 where own reconstructions show no motion either.

    Args:
        swapped: float64[N, D], read off decode(first frame of B, codes of A).
        own: float64[N, D], read off decode(first frame of A, codes of A).
        wanted: float64[N, D], motion of A.
        meter: what they were read with.
        episodes: int[N], of A.
    """
    rng = np.random.default_rng(seed)
    shuffles = [rng.permutation(len(wanted)) for _ in range(_SHUFFLES)]
    chance = float(np.mean([direction(swapped, wanted[s]) for s in shuffles]))
    cosine, ceiling = direction(swapped, wanted), direction(own, wanted)
    spread = interval(lambda rows: direction(swapped[rows], wanted[rows]), episodes, seed)
    room = ceiling - chance
    return {
        "cosine": cosine,
        "chance_cosine": chance,
        "ceiling_cosine": ceiling,
        "over_chance": cosine - chance,
        "of_ceiling": (cosine - chance) / room if room > _READABLE else 0.0,
        "interval": spread,
        "over_chance_interval": [end - chance for end in spread],
        "r2": motion.score(swapped, wanted),
        "chance_r2": float(np.mean([motion.score(swapped, wanted[s]) for s in shuffles])),
        "ceiling_r2": motion.score(own, wanted),
        "meter": meter.summary(),
        "pairs": len(wanted),
    }
