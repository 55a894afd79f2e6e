"""States of ours with weights that come from elsewhere."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lapa_jax import training


def of_params(init_fn: Callable[[jax.Array], Any], params: Any, mesh: Mesh) -> training.TrainState:
    """A state of step 0 without optimizer, laid out on the mesh: these parameters, all else as at the start.

    Args:
        init_fn: key -> initial variables, as of `training.make_init`.
        params: the tree that `init_fn` makes, of numpy arrays.
    """
    init = training.make_init(init_fn)
    abstract = training.abstract_state(init, mesh)
    params = jax.tree.map(
        lambda leaf, value: jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding), abstract.params, params
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.variables)
    variables = jax.jit(lambda key: init(key).variables, out_shardings=shardings)(jax.random.key(0))
    return abstract.replace(step=jnp.int32(0), params=params, variables=variables)
