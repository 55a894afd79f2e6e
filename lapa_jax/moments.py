"""How the two moments of Adam are stored: in 32, 16 or 8 bits a number.

Eight bits: m and the root of v as float8_e4m3fn, in blocks along the last axis with a scale each. Blocks keep an
outlier to itself, as in Dettmers et al. 2022 ("8-bit optimizers via block-wise quantization"). Otherwise we differ:

- Floats, whose spacing is relative, in the place of a table of 256 values. The root halves the range that v needs.
- Rounding is stochastic. An average with decay b2 moves by about 1 - b2 of its value a step, 0.001 to 0.05, and
  neighbours are 0.06 to 0.12 apart: rounded to the nearest it would stand still wherever it got to.
- Scales are powers of two, so that a number on the grid stays on it when the scale of its block changes.
- v > 0 is never stored as 0, since m is divided by its root.

Sixteen bits: m and v as bfloat16, rounded stochastically for the same reason.

Both are kept as their bits, in unsigned integers, so that stacks are updated in place (see `stacks.by_layer`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lapa_jax import rounding

BLOCK = 64


class Moments(NamedTuple):
    """Of one parameter, in its shape.

    Attributes:
        mu: running mean of the gradient: float32[...], or bits: uint16[...] of bfloat16, uint8[...] of float8.
        nu: of its square, likewise; in 8 bits the root of that.
        mu_exponent, nu_exponent: int8[..., blocks] in 8 bits, of the powers of two that are the scales; else None.
    """

    mu: jax.Array
    nu: jax.Array
    mu_exponent: jax.Array | None = None
    nu_exponent: jax.Array | None = None


class Format(NamedTuple):
    """
    Attributes:
        read: moments -> (m, v), float32.
        write: (m, v, words uint32[2, 2], layer) -> moments; the last two as of `rounding.noise`, for m and v.
    """

    read: Callable[[Moments], tuple[jax.Array, jax.Array]]
    write: Callable[[jax.Array, jax.Array, jax.Array, Any], Moments]


def format_of(stored: Moments) -> Format:
    """How these moments are stored."""
    return {"float32": FLOAT32, "uint16": BFLOAT16, "uint8": FLOAT8}[stored.mu.dtype.name]


def block(width: int) -> int:
    """How many numbers of a last axis share a scale: its largest divisor from 16 to 64, else all of it.

    A divisor, so that blocks tile the parts of an axis that is split over devices, wherever they can.
    """
    return next((size for size in range(BLOCK, 15, -1) if width % size == 0), width)


def _read_float8(stored: Moments) -> tuple[jax.Array, jax.Array]:
    m = _times_two_to(rounding.read(stored.mu), stored.mu_exponent)
    return m, jnp.square(_times_two_to(rounding.read(stored.nu), stored.nu_exponent))


def _write_float8(m: jax.Array, v: jax.Array, words: jax.Array, layer: Any) -> Moments:
    root, noise = jnp.sqrt(v), _noise(words, m, layer)
    exponents = _exponents(m), _exponents(root)
    mu = rounding.to_float8(_times_two_to(m, -exponents[0]), noise[0])
    nu = rounding.to_float8(_times_two_to(root, -exponents[1]), noise[1], squares=True)
    return Moments(rounding.to_bits(mu), rounding.to_bits(nu), *exponents)


def _noise(words: jax.Array, x: jax.Array, layer: Any) -> list[jax.Array]:
    """For each moment its own, so that neither has to be kept for the other."""
    return [rounding.noise(one, x.shape, layer) for one in words]


def _exponents(x: jax.Array) -> jax.Array:
    """int8[..., blocks]; x is within 448 of these powers of two, which is the largest float8."""
    peak = jnp.max(jnp.abs(x.reshape(*x.shape[:-1], -1, block(x.shape[-1]))), axis=-1)
    above = jax.lax.bitcast_convert_type(peak * (8 / 7), jnp.int32) >> 23  # 448 is 7/8 of 2^9
    return jnp.clip(above - 127 - 8, -100, 100).astype(jnp.int8)


def _times_two_to(x: jax.Array, exponents: jax.Array) -> jax.Array:
    scales = jax.lax.bitcast_convert_type((exponents.astype(jnp.int32) + 127) << 23, jnp.float32)
    return (x.reshape(*scales.shape, -1) * scales[..., None]).reshape(x.shape)


def _write_bfloat16(m: jax.Array, v: jax.Array, words: jax.Array, layer: Any) -> Moments:
    low = map(rounding.to_bfloat16, (m, v), _noise(words, m, layer))
    return Moments(*map(rounding.to_bits, low))


def _read(stored: Moments) -> tuple[jax.Array, jax.Array]:
    return rounding.read(stored.mu), rounding.read(stored.nu)


FLOAT32 = Format(_read, lambda m, v, words, layer: Moments(m, v))
BFLOAT16 = Format(_read, _write_bfloat16)
FLOAT8 = Format(_read_float8, _write_float8)
FORMATS = {"float32": FLOAT32, "bfloat16": BFLOAT16, "float8": FLOAT8}
