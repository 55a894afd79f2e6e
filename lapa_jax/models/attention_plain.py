"""Attention by plain XLA, for every device and dtype, under any mask.

The backward pass computes the weights again: what a layer keeps for it grows with the number of tokens and not with
its square (Dao et al. 2022). Softmax is in float32.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

UNSEEN = -0.7 * float(jnp.finfo(jnp.float32).max)
"""Logit of what may not be seen. Finite, so that nothing becomes NaN; who sees nothing gets zeros."""

PAIRS, AGAIN = "pairs_of_tokens", "computed_again"
"""Scopes of products over all pairs of tokens, and of those that the backward pass repeats, for `planning.work`."""


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scale: float | None = None) -> jax.Array:
    """See `attention.Implementation`; `mask` is bool[B, 1, T, S], for k and v of S tokens."""
    return _attend(q, k, v, mask, q.shape[-1] ** -0.5 if scale is None else scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    return _forward(q, k, v, mask, scale)[0]


@jax.named_scope(PAIRS)
def _forward(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, scale: float) -> Any:
    rows = by_head(q, k.shape[2])
    found = logits(rows, k, mask, scale)
    highest = jnp.max(found, axis=-1, keepdims=True)
    weights = jnp.exp(found - highest)
    total = jnp.where(highest > UNSEEN, jnp.sum(weights, axis=-1, keepdims=True), jnp.inf)
    out = product("bkrs,bskd->bkrd", weights.astype(v.dtype), v) / total
    out = by_token(out.astype(q.dtype), q.shape)
    return out, (q, k, v, mask, out, highest, total)


@jax.named_scope(PAIRS)
def _backward(scale: float, kept: Any, grad: jax.Array) -> tuple[jax.Array, ...]:
    q, k, v, mask, out, highest, total = kept
    rows, grads = by_head(q, k.shape[2]), by_head(grad, k.shape[2])
    with jax.named_scope(AGAIN):
        weights = jnp.exp(logits(rows, k, mask, scale) - highest) / total
    mean = mean_of(grad, out, k.shape[2])
    of_rows, of_k, of_v = gradients(rows, k, v, weights, mean, grads, scale)
    return by_token(of_rows, q.shape).astype(q.dtype), of_k.astype(k.dtype), of_v.astype(v.dtype), None


_attend.defvjp(_forward, _backward)


def logits(rows: jax.Array, k: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    """float32[B, K, G * T, S] of `by_head` rows and keys; UNSEEN where bool[B, 1, T, S] is False."""
    found = product("bkrd,bskd->bkrs", rows, k) * scale
    groups = rows.shape[2] // mask.shape[2]
    return jnp.where(jnp.tile(mask, (1, 1, groups, 1)) if groups > 1 else mask, found, UNSEEN)


def mean_of(grad: jax.Array, out: jax.Array, kv_heads: int) -> jax.Array:
    """float32[B, K, G * T, 1]: what softmax takes off the gradient of each weight, from that of what was seen."""
    products = grad.astype(jnp.float32) * out.astype(jnp.float32)
    return by_head(jnp.sum(products, axis=-1, keepdims=True), kv_heads)


def gradients(
    rows: jax.Array, k: jax.Array, v: jax.Array, weights: jax.Array, mean: jax.Array, grads: jax.Array, scale: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of `by_head` rows, keys and values, float32, from those of what was seen (`grads`, by head)."""
    of_weights = product("bkrd,bskd->bkrs", grads, v)
    of_logits = (weights * (of_weights - mean) * scale).astype(rows.dtype)
    of_rows = product("bkrs,bskd->bkrd", of_logits, k)
    of_k = product("bkrs,bkrd->bskd", of_logits, rows)
    return of_rows, of_k, product("bkrs,bkrd->bskd", weights.astype(v.dtype), grads)


def product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def by_head(x: jax.Array, kv_heads: int) -> jax.Array:
    """[B, T, N, D] -> [B, K, G * T, D]: the rows that look at each head of keys."""
    batch, length, heads, dim = x.shape
    x = x.reshape(batch, length, kv_heads, heads // kv_heads, dim)
    return x.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, dim)


def by_token(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Back to [B, T, N, D]."""
    batch, length, heads, dim = shape
    x = x.reshape(batch, x.shape[1], heads // x.shape[1], length, dim)
    return x.transpose(0, 3, 1, 2, 4).reshape(shape)
