"""Rotary positions (Su et al. 2021), interleaved pairs as in Meta's LLaMA: exact, or rounded as in official LAPA.

The official runs round the ANGLES to bfloat16, which is coarse: past 256 it no longer tells neighbours apart in the
fastest dimension. Its 7B weights were trained with them and need `bfloat16`; nothing else should use it.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

TABLES = ("exact", "bfloat16")


def frequencies(dim: int, theta: float) -> np.ndarray:
    """float64[dim / 2]: radians a position."""
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def rounded_table(length: int, dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin float32[length, dim / 2] of angles in bfloat16, themselves rounded to it."""
    angle = np.outer(np.arange(length, dtype=np.float64), frequencies(dim, theta))
    angle = angle.astype(ml_dtypes.bfloat16).astype(np.float32)
    cos, sin = (f(angle).astype(ml_dtypes.bfloat16).astype(np.float32) for f in (np.cos, np.sin))
    return cos, sin


def cos_sin(
    positions: jax.Array, dim: int, theta: float, table: str = "exact", length: int = 2048
) -> tuple[jax.Array, jax.Array]:
    """float32[B, T, dim / 2] each, for positions int[B, T].

    Args:
        table: one of TABLES.
        length: rows of the rounded table; positions from there on take its last row.
    """
    if table == "bfloat16":
        cos, sin = (jnp.asarray(one) for one in rounded_table(length, dim, theta))
        places = jnp.clip(positions, 0, length - 1)
        return cos[places], sin[places]
    angle = positions[..., None].astype(jnp.float32) * frequencies(dim, theta).astype(np.float32)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn the pairs (x[2i], x[2i + 1]) of float[B, T, N, dim] in float32; cos, sin float32[B, T, dim / 2]."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    even, odd = x[..., ::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
