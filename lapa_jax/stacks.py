"""Work on stacks of layers, in place, with memory for one layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

LARGE = 2**22
"""From so many numbers on a stack is worked through layer by layer."""


def by_layer(function: Callable, arrays: Any, *read: jax.Array) -> Any:
    """`function(0, arrays, *read)`, of large stacks one layer at a time, `arrays` in place.

    What a function computes on the way is then as large as a layer, not as the stack. The leading axis of
    arrays of three or more is that of the layers, which no rule of `sharding` splits.

    Args:
        function: (number of the layer, tree of arrays, *more arrays) -> the tree, of the same shapes and dtypes.
        arrays: a tree of arrays with the same leading axis, the first of which is the largest. Floats of fewer than
            32 bits come as `rounding.to_bits`: CPUs widen them, and with them the whole stack for each layer.
    """
    first = jax.tree.leaves(arrays)[0]
    if first.ndim < 3 or first.size < LARGE:
        return function(0, arrays, *read)

    def one(i: jax.Array, carry: Any) -> Any:
        arrays = _put(*carry, jnp.maximum(i - 1, 0))
        return arrays, function(i, *_layer((arrays, *read), i))

    # A layer is written when the next one begins. Written at once it would be read and overwritten in the same
    # iteration, in an order that is the compiler's, which may copy the stack to be safe.
    return _put(*jax.lax.fori_loop(0, len(first), one, (arrays, _layer(arrays, 0))), len(first) - 1)


def _layer(arrays: Any, i: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), arrays)


def _put(arrays: Any, layer: Any, i: Any) -> Any:
    return jax.tree.map(lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, i, 0), arrays, layer)
