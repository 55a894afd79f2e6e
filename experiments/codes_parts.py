"""What the programs share that learn codes: codebooks kept alive, and a frozen tower in its place."""

import functools
from typing import Any

import jax

from lapa_jax import training
from lapa_jax.models.perceptual import FROZEN


def make_maintain(model: Any, accumulate: int = 1) -> training.MaintainFn:
    """Dead codes are restarted between two gradients, of so many batches each, by the model's method `maintain`."""

    def maintain(params: Any, variables: Any, key: jax.Array) -> Any:
        frozen = {name: variables[name] for name in variables if name == FROZEN}
        state = {"params": params, **{name: variables[name] for name in variables if name != FROZEN}}
        apply = functools.partial(model.apply, method="maintain", mutable=list(state), rngs={"noise": key})
        _, new = apply({**state, **frozen}, accumulate)
        state |= new | frozen
        return state.pop("params"), state

    return maintain


def with_tower(state: training.TrainState, abstract: training.TrainState, weights: Any) -> training.TrainState:
    """`state` with the tower's weights in their place, laid out as `abstract` says; None leaves it as it is."""
    if weights is None:
        return state
    layout = jax.tree.map(lambda leaf: leaf.sharding, abstract.variables[FROZEN]["tower"])
    frozen = {"tower": jax.device_put(weights, layout)}
    return state.replace(variables={**state.variables, FROZEN: frozen})
