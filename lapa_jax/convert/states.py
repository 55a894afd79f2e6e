"""Weights that come from elsewhere: checked against a model of ours, and as a state."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lapa_jax import errors, training


def shape_of(leaves: Mapping[str, np.ndarray], name: str, ndim: int, stranger: str, held: str) -> tuple[int, ...]:
    """The shape of a leaf that tells a size.

    Args:
        stranger: as of `check`.
        held: what there is instead, for the error.

    Raises:
        UserError: it is missing, empty, or has another number of axes.
    """
    if name not in leaves or leaves[name].ndim != ndim or not leaves[name].size:
        found = f"has shape {leaves[name].shape}" if name in leaves else "is missing"
        raise errors.UserError(f"{stranger}: {name} {found} ({held})")
    return leaves[name].shape


def check(
    leaves: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    names: Iterable[str],
    stranger: str,
    model: str,
    instead: str,
) -> None:
    """Compare leaves with what a model wants, and look for values that are no numbers.

    Args:
        names: of all leaves and shapes, in the order in which they are compared.
        stranger: what to say of a file that is of another model.
        model: what to call ours.
        instead: the file to take when this one holds no numbers.

    Raises:
        UserError: they differ; names the first leaf with both sides.
    """
    for name in names:
        theirs = leaves[name].shape if name in leaves else "absent"
        ours = shapes.get(name, "absent")
        if theirs != ours:
            raise errors.UserError(f"{stranger}: {name} is {theirs} there and {ours} in {model}")
    for name, value in leaves.items():
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise errors.UserError(f"{stranger}: {name} is {value.dtype}, not a float")
        if not np.all(np.isfinite(value)):
            raise errors.UserError(f"{name} holds infinities or NaN: that training went wrong, take {instead}")


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
