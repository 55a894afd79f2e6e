"""Rotary positions (Su et al. 2021), interleaved pairs as in Meta's LLaMA: exact, or rounded as in official LAPA.

Models of Hugging Face turn halves, (x[i], x[i + dim / 2]); `convert/text_leaves.py` reorders their weights, so that
no other code turns.

The official runs round the ANGLES to bfloat16, which is coarse: past 256 it no longer tells neighbours apart in the
fastest dimension. Its 7B weights were trained with them and need `bfloat16`; nothing else should use it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

TABLES = ("exact", "bfloat16")

SCALINGS: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""How frequencies are slowed down for longer texts, and the numbers that it takes, as Hugging Face calls them."""


def frequencies(dim: int, theta: float, scaling: Mapping[str, Any] | None = None) -> np.ndarray:
    """float64[dim / 2]: radians a position.

    Args:
        scaling: {"type": a key of SCALINGS, and its numbers}. "linear" divides all frequencies by the factor
            (Chen et al. 2023); "llama3" those whose period is long in the original context, with a ramp between.
    """
    found = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if scaling is None:
        return found
    kept = 0.0
    if scaling["type"] == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        periods = scaling["original_max_position_embeddings"] * found / (2 * np.pi)
        kept = np.clip((periods - low) / (high - low), 0.0, 1.0)
    return found * (kept + (1.0 - kept) / scaling["factor"])


def rounded_table(frequency: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin float32[length, dim / 2] of angles in bfloat16, themselves rounded to it."""
    angle = np.outer(np.arange(length, dtype=np.float64), frequency)
    angle = angle.astype(ml_dtypes.bfloat16).astype(np.float32)
    cos, sin = (f(angle).astype(ml_dtypes.bfloat16).astype(np.float32) for f in (np.cos, np.sin))
    return cos, sin


def cos_sin(
    positions: jax.Array,
    dim: int,
    theta: float,
    table: str = "exact",
    length: int = 2048,
    scaling: Mapping[str, Any] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """float32[B, T, dim / 2] each, for positions int[B, T].

    Args:
        theta, scaling: see `frequencies`.
        table: one of TABLES.
        length: rows of the rounded table; positions from there on take its last row.
    """
    frequency = frequencies(dim, theta, scaling)
    if table == "bfloat16":
        cos, sin = (jnp.asarray(one) for one in rounded_table(frequency, length))
        places = jnp.clip(positions, 0, length - 1)
        return cos[places], sin[places]
    angle = positions[..., None].astype(jnp.float32) * frequency.astype(np.float32)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn the pairs (x[2i], x[2i + 1]) of float[B, T, N, dim] in float32; cos, sin float32[B, T, dim / 2]."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    even, odd = x[..., ::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
