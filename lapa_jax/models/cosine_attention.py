"""Attention by cosine similarity: of many places through matrix products, of few without."""

import flax.linen as nn
import jax
import jax.numpy as jnp

LOGIT_SCALE = 8.0
"""Multiplies cosine similarities in [-1, 1]; a constant, whatever the head size."""

FEW_PLACES = 16
"""Pairs of a place that looks and a place looked at, up to which `attend` does without matrix products."""


def attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Softmax attention of unit-length queries float[..., L, N, H] and keys float[..., M, N, H].

    Few places are multiplied out: matrix products of 2 x 2 are slow, and want their factors transposed first.

    Args:
        v: float[..., M, N, H].
        bias: on the logits, float[N, L, M].

    Returns:
        float[..., L, N, H].
    """
    if q.shape[-3] * k.shape[-3] <= FEW_PLACES:
        return _attend_few(q, k, v, bias)
    logits = jnp.einsum("...lnh,...mnh->...nlm", q, k, preferred_element_type=jnp.float32)
    logits = logits * LOGIT_SCALE
    weights = nn.softmax(logits if bias is None else logits + bias).astype(v.dtype)
    return jnp.einsum("...nlm,...mnh->...lnh", weights, v)


def _attend_few(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None) -> jax.Array:
    products = q[..., :, None, :, :].astype(jnp.float32) * k[..., None, :, :, :]
    logits = LOGIT_SCALE * jnp.sum(products, axis=-1)  # [..., L, M, N]
    logits = logits if bias is None else logits + jnp.moveaxis(bias, 0, -1)
    weights = nn.softmax(logits, axis=-2).astype(v.dtype)
    return jnp.sum(weights[..., None] * v[..., None, :, :, :], axis=-3)
