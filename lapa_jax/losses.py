"""Losses: reconstruction of the next frame, cross-entropy of codes, regression of actions."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from lapa_jax import vocab


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
    return masked_cross_entropy(logits, targets, jnp.ones(targets.shape, bool) if mask is None else mask)[0]


def action_regression(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute plus squared error of normalised action chunks.

    Args:
        prediction, target: float[B, horizon, A]. mask: bool[B, horizon], False past the episode's end.
    """
    return action_l1(prediction, target, mask) + action_l2(prediction, target, mask)


def action_l1(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean absolute error; arguments of `action_regression`."""
    return _mean(jnp.mean(jnp.abs(prediction - target), axis=-1), mask)


def action_l2(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error; arguments of `action_regression`."""
    return _mean(jnp.mean(jnp.square(prediction - target), axis=-1), mask)


def masked_cross_entropy(
    logits: jax.Array, targets: jax.Array, valid: jax.Array, per_row: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(cross-entropy, accuracy) over the places that are valid.

    Args:
        logits: float[B, T, V]. targets: int[B, T], anything where not valid. valid: bool[B, T].
        per_row: the mean of the rows' means, as in official LAPA (tux/loss.py), where a row without valid
            places counts as 0; else the mean over all valid places of the batch.
    """
    targets = jnp.where(valid, targets, 0)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    right = jnp.argmax(logits, axis=-1) == targets
    axis = 1 if per_row else None
    return jnp.mean(_mean(loss, valid, axis)), jnp.mean(_mean(right, valid, axis))


def _mean(values: jax.Array, mask: jax.Array, axis: int | None = None) -> jax.Array:
    """Over the places that count; 0 where there are none."""
    mask = mask.astype(jnp.float32)
    return jnp.sum(values * mask, axis) / jnp.maximum(jnp.sum(mask, axis), 1.0)


def wanted(
    name: str, targets: jax.Array, kinds: jax.Array, counts: jax.Array, legacy: bool = False
) -> tuple[jax.Array, jax.Array]:
    """What the head of one vocabulary has to predict: ids int[B, T] and where, bool[B, T].

    Args:
        targets, kinds: int[B, T], the tokens that follow.
        counts: bool[B, T], which of them are to be predicted.
        legacy: the text head is also pulled towards id 0 where latents follow, as official LAPA pretrains
            (latent_pretraining/train.py, line 311).
    """
    mine = kinds == vocab.NAMES.index(name)
    ids = jnp.where(mine, targets, 0)
    if legacy and name == "text":
        mine = mine | (kinds == vocab.LATENT)
    return ids, counts & mine


def weighted_cross_entropy(
    predicted: Mapping[str, tuple[jax.Array, jax.Array, jax.Array]], weights: Mapping[str, float], per_row: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted sum of the cross-entropies of several heads.

    Args:
        predicted: vocabulary -> logits float[B, N, V], targets int[B, N] and which of them count, bool[B, N].
        weights: vocabulary -> weight in the sum; the others are logged only.
        per_row: see `masked_cross_entropy`.

    Returns:
        The loss, and NAME_loss and NAME_accuracy of each vocabulary.
    """
    total, log = jnp.float32(0.0), {}
    for name, (logits, ids, counts) in predicted.items():
        loss, accuracy = masked_cross_entropy(logits, ids, counts, per_row)
        log |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
        total += weights.get(name, 0.0) * loss
    return total, log


def stream_cross_entropy(
    logits: Mapping[str, jax.Array],
    targets: jax.Array,
    kinds: jax.Array,
    counts: jax.Array,
    weights: Mapping[str, float],
    legacy: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`weighted_cross_entropy` of logits float[B, T, V] at all places of a stream; arguments of `wanted`.

    Args:
        legacy: as official LAPA pretrains: means by row, too.
    """
    predicted = {name: (one, *wanted(name, targets, kinds, counts, legacy)) for name, one in logits.items()}
    return weighted_cross_entropy(predicted, weights, per_row=legacy)
