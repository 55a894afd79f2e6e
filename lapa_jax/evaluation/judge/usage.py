"""Which codes are in use, and whether datasets share them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax.evaluation.judge.outcome import NotMeasured

_NAMED = 50  # codes never used that are named
_LISTED, _SHOWN = 4096, 512  # shares that are all written down; of more, the largest


def perplexity(usage: np.ndarray) -> float:
    """exp(entropy) of a distribution float[K]: the effective number of codes."""
    used = usage[usage > 0]
    return float(np.exp(-np.sum(used * np.log(used))))


def histograms(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """Share of each code at each position of int[N, L] codes: float64[L, K]."""
    return np.stack([np.bincount(column, minlength=num_codes) / len(codes) for column in codes.T])


def measure(codes: np.ndarray | None, num_codes: int | None) -> dict[str, Any]:
    """Health of int[N, L] codes of `num_codes`.

    `perplexity_share` is that of the worst position, as a share of `num_codes`. `joint` counts whole
    sequences of L codes; N pairs can show at most N of them.

    Raises:
        NotMeasured: the quantiser is continuous.
    """
    if codes is None:
        raise NotMeasured("the quantiser is continuous and has no codes")
    usage = histograms(codes, num_codes)
    each = [perplexity(row) for row in usage]
    _, counts = np.unique(codes, axis=0, return_counts=True)
    never = np.flatnonzero(usage.max(axis=0) == 0)
    return {
        "usage": usage if usage.size <= _LISTED else -np.sort(-usage.mean(axis=0))[None, :_SHOWN],
        "usage_sorted": usage.size > _LISTED,
        "perplexity": each,
        "perplexity_mean": float(np.mean(each)),
        "perplexity_share": min(each) / num_codes,
        "used_share": 1.0 - len(never) / num_codes,
        "largest_share": float(usage.max()),
        "never_used": len(never),
        "never_used_codes": never[:_NAMED],
        "joint": {
            "perplexity": perplexity(counts / len(codes)),
            "seen": len(counts),
            "possible_bits": codes.shape[1] * float(np.log2(num_codes)),
            "pairs": len(codes),
        },
    }


def spread(z: np.ndarray) -> dict[str, float]:
    """What varies in float[N, L, D]: `directions` counts the effective ones (participation ratio of the
    eigenvalues of the covariance), `std` is over all dimensions."""
    flat = z.reshape(len(z), -1).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    gram = flat @ flat.T if flat.shape[0] < flat.shape[1] else flat.T @ flat
    total, squares = float(np.trace(gram)), float(np.sum(np.square(gram)))
    std = float(np.sqrt(np.mean(np.square(flat))))
    return {"std": std, "directions": total**2 / squares if squares > 0 else 0.0, "dims": flat.shape[1]}


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits of distributions float[..., K], averaged: 0 same, 1 disjoint."""
    middle = (p + q) / 2

    def relative(a: np.ndarray) -> np.ndarray:
        ratio = np.divide(a, middle, out=np.ones_like(a), where=a > 0)
        return np.sum(a * np.log2(ratio), axis=-1)

    return float(np.mean((relative(p) + relative(q)) / 2))


def overlap(
    codes: Mapping[str, np.ndarray], episodes: Mapping[str, np.ndarray], num_codes: int | None, seed: int
) -> dict[str, Any]:
    """1 - Jensen-Shannon divergence of the codes of every two datasets, averaged over positions.

    The diagonal compares two halves of a dataset, divided by episodes: what chance alone leaves.

    Args:
        codes: dataset -> int[N, L]. episodes: dataset -> int[N].

    Raises:
        NotMeasured: one dataset only, or a continuous quantiser.
    """
    if len(codes) < 2:
        raise NotMeasured("one dataset only; give several with data.mixture")
    if num_codes is None:
        raise NotMeasured("the quantiser is continuous and has no codes")
    names = list(codes)
    usage = {name: histograms(codes[name], num_codes) for name in names}
    matrix = np.array([[1 - divergence(usage[a], usage[b]) for b in names] for a in names])
    for i, name in enumerate(names):
        matrix[i, i] = _halves(codes[name], episodes[name], num_codes, seed)
    apart = matrix[~np.eye(len(names), dtype=bool)]
    return {"names": names, "matrix": matrix, "lowest": float(apart.min())}


def _halves(codes: np.ndarray, episodes: np.ndarray, num_codes: int, seed: int) -> float:
    """Overlap of two halves of the episodes; nan where there is one episode."""
    names = np.random.default_rng(seed).permutation(np.unique(episodes))
    if len(names) < 2:
        return float("nan")
    first = np.isin(episodes, names[: len(names) // 2])
    return 1 - divergence(*(histograms(codes[side], num_codes) for side in (first, ~first)))
