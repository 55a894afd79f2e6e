"""Does the decoder obey its code? Genie's controllability (Bruce et al. 2024, section 3)."""

from typing import Any

import numpy as np

from lapa_jax.evaluation.judge import images
from lapa_jax.evaluation.judge.splits import interval

DRAWS = 2  # random codes tried for each pair


def random_rows(count: int, seed: int) -> np.ndarray:
    """int[DRAWS, N]: for each pair, pairs whose codes it gets; drawn with the frequency of the codes."""
    return np.random.default_rng(seed).integers(count, size=(DRAWS, count))


def measure(true: np.ndarray, random: np.ndarray, episodes: np.ndarray, pixels: bool, seed: int) -> dict[str, Any]:
    """Mean of PSNR(x2, decode(x1, true codes)) - PSNR(x2, decode(x1, random codes)), dB.

    Features have no peak value; there it is the same difference of mean squared errors in dB.

    Args:
        true: float64[N], mean squared errors with the pair's own codes.
        random: float64[DRAWS, N], with codes of other pairs.
        episodes: int[N].
    """
    level = images.psnr if pixels else (lambda error: -10.0 * np.log10(np.maximum(error, 1e-12)))
    own, other = level(true), level(random).mean(axis=0)
    delta = own - other
    found = {"delta_db": float(delta.mean()), "positive_share": float(np.mean(delta > 0))}
    found["interval"] = interval(lambda rows: float(delta[rows].mean()), episodes, seed)
    return found | ({"psnr": float(own.mean()), "random_psnr": float(other.mean())} if pixels else {})
