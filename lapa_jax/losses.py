"""Losses: reconstruction of the next frame, cross-entropy of codes, regression of actions."""

import jax
import jax.numpy as jnp
import optax


def reconstruction(
    prediction: jax.Array, target: jax.Array, frame: jax.Array, change_weight: float = 0.0
) -> jax.Array:
    """Squared error of the predicted next frame, weighted up where the two frames differ.

    Args:
        prediction, target, frame: float[B, H, W, C] in [0, 1]; `frame` is x1, `target` is x2.
        change_weight: extra weight of pixels that changed; 0 is the plain mean squared error.
    """
    changed = jnp.max(jnp.abs(target - frame), axis=-1, keepdims=True) > 0.1
    weight = 1.0 + change_weight * changed
    return jnp.mean(weight * jnp.square(prediction - target)) / jnp.mean(weight)


def token_cross_entropy(logits: jax.Array, targets: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Mean cross-entropy over the positions that count.

    Args:
        logits: float[B, N, V]. targets: int[B, N]. mask: bool[B, N], all positions by default.
    """
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    mask = jnp.ones_like(loss) if mask is None else mask.astype(loss.dtype)
    return jnp.sum(loss * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def action_regression(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute plus squared error of normalised action chunks.

    Args:
        prediction, target: float[B, horizon, A]. mask: bool[B, horizon], False past the episode's end.
    """
    error = prediction - target
    per_step = jnp.mean(jnp.abs(error) + jnp.square(error), axis=-1)
    mask = mask.astype(per_step.dtype)
    return jnp.sum(per_step * mask) / jnp.maximum(jnp.sum(mask), 1.0)
