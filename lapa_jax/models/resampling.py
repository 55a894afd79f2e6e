"""Grids of learned positions at another size, as PyTorch's `interpolate(align_corners=False)` computes them.

`jax.image.resize` differs: its cubic kernel is another one, and it renormalises where PyTorch repeats the border.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' piecewise cubic (1981); `a` is its slope at distance 1."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def triangle(x: np.ndarray) -> np.ndarray:
    """Linear interpolation."""
    return np.maximum(1 - np.abs(x), 0.0)


RULES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], bool]] = {
    "bicubic": (lambda x: cubic(x, -0.75), False),
    "bicubic_antialias": (lambda x: cubic(x, -0.5), True),
    "bilinear_antialias": (triangle, True),
}
"""name -> (kernel, whether it widens when the grid shrinks). PyTorch's two cubics have different slopes."""


def weights(old: int, new: int, rule: str) -> np.ndarray:
    """float64[new, old]: the matrix that resamples one axis."""
    kernel, antialias = RULES[rule]
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    if antialias:
        matrix = kernel((np.arange(old) - centre) / max(scale, 1.0))
        return matrix / matrix.sum(axis=1, keepdims=True)
    taps = np.floor(centre).astype(int) + np.arange(-1, 3)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(taps, 0, old - 1)), kernel(taps - centre))
    return matrix


def resample(places: jax.Array, grid: tuple[int, int], rule: str) -> jax.Array:
    """float[h, w, D] -> float32[*grid, D] by a name of `RULES`; the same size passes unchanged."""
    if places.shape[:2] == grid:
        return places
    rows, columns = (
        jnp.asarray(weights(old, new, rule), jnp.float32) for old, new in zip(places.shape[:2], grid, strict=True)
    )
    precise = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,hwd,jw->ijd", rows, places, columns, precision=precise)
