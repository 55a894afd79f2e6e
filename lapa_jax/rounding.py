"""Stochastic rounding: a number becomes one of its two neighbours, at random, and stays itself on average.

A small change of a large number is lost when it is rounded to the nearest: with bfloat16's 8 bits an update
below 1/512 of a weight never arrives. Rounded at random it arrives one time in so many
(Gupta et al. 2015; for bfloat16 weights Zamirai et al. 2020, "Revisiting BFloat16 Training").
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

LARGE = 2**22
"""From so many numbers on a stack of layers is worked through layer by layer."""


def to_bfloat16(x: jax.Array, noise: jax.Array) -> jax.Array:
    """bfloat16[...], x float32[...], noise uint32[...], of which the lower 16 bits are used."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (noise & 0xFFFF)  # a carry is the upper neighbour
    rounded = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def add(params: Any, updates: Any, key: jax.Array) -> Any:
    """`params` + `updates`, in the dtypes of `params`; bfloat16 ones are rounded stochastically."""
    leaves, tree = jax.tree.flatten(params)
    keys = (jax.random.fold_in(key, i) for i in range(len(leaves)))
    return tree.unflatten(map(_add, keys, leaves, tree.flatten_up_to(updates)))


def _add(key: jax.Array, param: jax.Array, update: jax.Array) -> jax.Array:
    def rounded(key: jax.Array, param: jax.Array, update: jax.Array) -> jax.Array:
        exact = param.astype(jnp.float32) + update.astype(jnp.float32)
        return to_bfloat16(exact, jax.random.bits(key, exact.shape))

    if param.dtype == jnp.bfloat16:
        return by_layer(rounded, key, param, update)
    return (param + update).astype(param.dtype)


def by_layer(function: Callable, key: jax.Array, arrays: Any, *read: jax.Array) -> Any:
    """`function(key, arrays, *read)`, of large stacks one layer at a time, `arrays` in place.

    What a function computes on the way is then as large as a layer, not as the stack. The leading axis of
    arrays of three or more is that of the layers, which no rule of `sharding` splits.

    Args:
        function: (key, tree of arrays, *more arrays) -> the same tree, of the same shapes and dtypes.
        arrays: a tree of arrays with the same leading axis, the first of which is the largest.
    """
    first = jax.tree.leaves(arrays)[0]
    if first.ndim < 3 or first.size < LARGE:
        return function(key, arrays, *read)

    def one(i: jax.Array, bits: Any) -> Any:
        layer = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), (bits, *read))
        new = function(jax.random.fold_in(key, i), _floats(layer[0], arrays), *layer[1:])
        return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, _bits(y), i, 0), bits, new)

    return _floats(jax.lax.fori_loop(0, len(first), one, jax.tree.map(_bits, arrays)), arrays)


def _bits(x: jax.Array) -> jax.Array:
    """Low floats as integers: CPUs widen the former, and with them the whole stack for each layer."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize)
    return x if unsigned is None else jax.lax.bitcast_convert_type(x, unsigned)


def _floats(bits: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, y: jax.lax.bitcast_convert_type(x, y.dtype), bits, like)
