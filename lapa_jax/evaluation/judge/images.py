"""How near a reconstruction is to the later frame, beside a copy of the first frame."""

from typing import Any

import numpy as np

from lapa_jax.evaluation.judge.outcome import KEY
from lapa_jax.evaluation.judge.splits import interval

FLOOR = 1 / 12 / 255**2
"""Mean squared error of rounding to 8 bits: nothing is nearer than that, 58.9 dB."""
NO_LPIPS = "no weights: give a file with --config.lpips"
TOO_SMALL = "frames are smaller than the window of 11 pixels"
_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


def squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared difference of each two of float[N, h, w, C]: float64[N]."""
    return np.mean(np.square(a - b), axis=(1, 2, 3), dtype=np.float64)


def psnr(error: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of mean squared errors on the [0, 1] scale, at most 58.9."""
    return -10.0 * np.log10(np.maximum(error, FLOOR))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004) of each two of float[N, h, w, C] in [0, 1]: float64[N].

    As published: an 11 x 11 Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03, population variances;
    windows lie inside the image, and channels are averaged. nan for images smaller than the window.
    """
    height, width = a.shape[1:3]
    if min(height, width) < _WINDOW:
        return np.full(len(a), np.nan)
    rows, columns = _blur(height), _blur(width).T
    return np.array([_ssim(*pair, rows, columns) for pair in zip(a, b, strict=True)])


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean over places of the cosine between feature vectors of float[N, h, w, C]: float64[N]."""
    dot = np.sum(a * b, axis=-1, dtype=np.float64)
    length = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.mean(dot / np.maximum(length, 1e-12), axis=(1, 2))


def rows(first: np.ndarray, then: np.ndarray, rebuilt: np.ndarray, pixels: bool) -> dict[str, np.ndarray]:
    """Scores of each pair of views float[N, h, w, C]: float64[N] each, with `copy_` for the first frame.

    Pixels have SSIM, features the cosine.
    """
    similar = ("ssim", ssim) if pixels else ("cosine", cosine)
    scores = (("mse", squared_error), similar)
    return {
        f"{kind}{name}": score(shown, then)
        for name, score in scores
        for kind, shown in (("", rebuilt), ("copy_", first))
    }


def measure(scores: dict[str, np.ndarray], episodes: np.ndarray, pixels: bool, seed: int) -> dict[str, Any]:
    """Summary of `rows` over int[N] episodes.

    `gain_db` is how far the error lies below that of copying, over all pairs together: for pixels the
    difference of the two PSNRs. The mean over pairs is not used, since of a pair in which nothing
    moves the copy is perfect.
    """

    def gain(rows: np.ndarray) -> float:
        error, copied = (max(float(scores[name][rows].mean()), 1e-12) for name in ("mse", "copy_mse"))
        return 10.0 * np.log10(copied / error)

    everything = np.arange(len(episodes))
    found = {name: float(values.mean()) for name, values in scores.items()}
    found |= {"gain_db": gain(everything), "gain_interval": interval(gain, episodes, seed)}
    found["better_share"] = float(np.mean(scores["mse"] < scores["copy_mse"]))
    if not pixels:
        return found | {"cosine_gain": found["cosine"] - found["copy_cosine"]}
    found |= {name: float(psnr(found[error])) for name, error in (("psnr", "mse"), ("copy_psnr", "copy_mse"))}
    small = not np.isfinite(found["ssim"])
    found["ssim_gain"] = {KEY: TOO_SMALL} if small else found["ssim"] - found["copy_ssim"]
    found["lpips_gain"] = found["copy_lpips"] - found["lpips"] if "lpips" in found else {KEY: NO_LPIPS}
    return found


def _ssim(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> float:
    """Of one pair float[h, w, C]; `rows` and `columns` take Gaussian means from both sides."""

    def local(x: np.ndarray) -> np.ndarray:
        return rows @ x @ columns

    a, b = (np.moveaxis(x, -1, 0).astype(np.float64) for x in (a, b))
    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    cov = local(a * b) - mean_a * mean_b
    c1, c2 = _K1**2, _K2**2
    score = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(score.mean())


def _blur(size: int) -> np.ndarray:
    """float64[size - 10, size]: Gaussian means along an axis as a matrix."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    band = np.zeros((size - _WINDOW + 1, size))
    for i, row in enumerate(band):
        row[i : i + _WINDOW] = weights / weights.sum()
    return band
