"""Stochastic rounding: a number becomes one of its two neighbours, at random, and stays itself on average.

A small change of a large number is lost when it is rounded to the nearest: with bfloat16's 8 bits an update
below 1/512 of a weight never arrives. Rounded at random it arrives one time in so many
(Gupta et al. 2015; for bfloat16 weights Zamirai et al. 2020, "Revisiting BFloat16 Training").
"""

from typing import Any

import jax
import jax.numpy as jnp

BITS = {"bfloat16": jnp.uint16, "float8_e4m3fn": jnp.uint8}
"""Floats of fewer than 32 bits, and what holds their bits."""


def noise(words: jax.Array, shape: tuple[int, ...], layer: Any = 0) -> jax.Array:
    """uint32[*shape]: a hash of random words uint32[2] and the place, by the finalizer of MurmurHash3.

    Enough for rounding. Unlike that of `jax.random` it is one chain of operations on each number, which compilers
    put into the loop that uses it: it takes no memory and, with many parameters, less time to compile.

    Args:
        layer: of a stack of arrays of that shape; each has noise of its own.
    """
    place, stride = jnp.uint32(0), 1
    for axis in reversed(range(len(shape))):
        place = place + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    start = words[0] + jnp.uint32(layer) * jnp.uint32(stride % 2**32)
    return _mixed(_mixed(place + start) ^ words[1])


def _mixed(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def to_bfloat16(x: jax.Array, noise: jax.Array) -> jax.Array:
    """bfloat16[...], x float32[...], noise uint32[...], of which the lower 16 bits are used."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (noise & 0xFFFF)  # a carry is the upper neighbour
    rounded = from_bits((bits >> 16).astype(jnp.uint16))
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def to_float8(x: jax.Array, noise: jax.Array, squares: bool = False) -> jax.Array:
    """float8_e4m3fn[...]: 3 bits after the point, down to 2^-9.

    Args:
        x: float32[...] within 448, the largest there is. noise: uint32[...], of which 16 bits are used.
        squares: what stays itself on average is the square of x, and no x becomes 0 but 0. A mean of squares
            is kept as its root; the square of what is right on average would be too large on average.
    """
    size = jnp.abs(x)
    exponent = jnp.maximum(jax.lax.bitcast_convert_type(size, jnp.uint32) >> 23, 127 - 6)
    quantum = jax.lax.bitcast_convert_type((exponent - 3) << 23, jnp.float32)
    whole = size / quantum  # exact, by a power of two
    lower = jnp.floor(whole)
    share = whole - lower
    if squares:
        share = share * (whole + lower) / (2.0 * lower + 1.0)
    rounded = lower + ((noise & 0xFFFF) + 0.5 < share * 2.0**16)
    if squares:
        rounded = jnp.where(size > 0, jnp.maximum(rounded, 1.0), 0.0)
    return jnp.copysign(jnp.minimum(rounded * quantum, 448.0), x).astype(jnp.float8_e4m3fn)


def to_bits(x: jax.Array) -> jax.Array:
    """Floats of fewer than 32 bits as unsigned integers; float32 stays."""
    return jax.lax.bitcast_convert_type(x, BITS[x.dtype.name]) if x.dtype.name in BITS else x


def from_bits(x: jax.Array) -> jax.Array:
    """The floats with these bits; float32 stays."""
    low = {jnp.dtype(bits).name: name for name, bits in BITS.items()}
    return jax.lax.bitcast_convert_type(x, jnp.dtype(low[x.dtype.name])) if x.dtype.name in low else x


def read(bits: jax.Array) -> jax.Array:
    """float32, of floats or their bits."""
    return from_bits(bits).astype(jnp.float32)


def write(x: jax.Array, dtype: Any, words: jax.Array, layer: Any = 0) -> jax.Array:
    """float32 x as it is, or rounded stochastically to the bits of bfloat16 where `dtype` is theirs."""
    return to_bits(to_bfloat16(x, noise(words, x.shape, layer))) if dtype == jnp.uint16 else x
