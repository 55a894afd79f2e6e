"""Gradients of a batch that does not fit, summed over micro-batches within one step."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax import errors, sharding

WEIGHT = "weight"
"""Metric, a scalar: what the mean of a micro-batch counts for (the number of places that a masked mean is of)."""


def gradients(
    grad_fn: Callable, count: int, params: Any, variables: Any, batch: Any, key: jax.Array
) -> tuple[tuple[jax.Array, tuple[dict[str, jax.Array], Any]], Any]:
    """What `grad_fn(params, variables, batch, key)` returns, averaged over `count` micro-batches.

    The average is weighted by the metric `WEIGHT`, which is taken out, or is plain without one. Sums are
    float32 where gradients are lower, so they take 4 bytes a trained parameter. `variables` go through the
    micro-batches in order.

    Args:
        grad_fn: as `jax.value_and_grad` of a loss with (metrics, variables) beside it.

    Raises:
        UserError: the batch cannot be cut into that many parts.
    """
    if count == 1:
        (loss, (metrics, variables)), grads = grad_fn(params, variables, batch, key)
        return (loss, (_without_weight(metrics), variables)), grads
    check(batch, count)

    def one(variables: Any, i: Any) -> Any:
        rows = jax.tree.map(lambda x: part(x, i, count), batch)
        (loss, (metrics, variables)), grads = grad_fn(params, variables, rows, jax.random.fold_in(key, i))
        weight = jax.lax.stop_gradient(jnp.float32(metrics.get(WEIGHT, 1.0)))
        return variables, weight, (loss, _without_weight(metrics), grads)

    def add(carry: Any, i: jax.Array) -> Any:
        variables, total, sums = carry
        variables, weight, values = one(variables, i)
        return (variables, total + weight, jax.tree.map(lambda s, x: s + weight * x, sums, values)), None

    sums = jax.tree.map(_zeros, jax.eval_shape(one, variables, 0)[2])
    (variables, total, sums), _ = jax.lax.scan(add, (variables, jnp.float32(0.0), sums), jnp.arange(count))
    loss, metrics, grads = jax.tree.map(lambda s: s / jnp.where(total > 0, total, 1.0), sums)
    return (loss, (metrics, variables)), grads


def part(x: jax.Array, i: Any, count: int) -> jax.Array:
    """Rows i, i + count, i + 2 count, ... of [B, ...]: so many of each device's own, and none moves."""
    rows = x.reshape(-1, count, *x.shape[1:])
    return sharding.constrain_batch(jax.lax.dynamic_index_in_dim(rows, i, axis=1, keepdims=False))


def check(batch: Any, count: int) -> None:
    """
    Raises:
        UserError: there is no such number of parts, or some rows do not divide by it on every device.
    """
    if count < 1:
        raise errors.UserError(f"accumulate={count} is no number of parts: give 1 or more")
    shards = sharding.along("data") * sharding.along("fsdp")
    for path, x in jax.tree.leaves_with_path(batch):
        if x.shape[0] % (count * shards):
            raise errors.UserError(
                f"{x.shape[0]} rows ({sharding.path_name(path)}) do not divide into accumulate={count} parts over "
                f"{shards} devices: set --config.batch_size to a multiple of accumulate*data*fsdp"
            )


def _without_weight(metrics: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: value for name, value in metrics.items() if name != WEIGHT}


def _zeros(x: Any) -> jax.Array:
    return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
