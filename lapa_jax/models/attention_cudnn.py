"""cuDNN's flash attention, on NVIDIA GPUs, as jax 0.10 offers it.

It knows rows that are padded on the right by their lengths. For others (several segments, padding elsewhere) it
wants a mask of all pairs, of which it makes a bias. Which of the two a batch needs is known when it is there.
"""

from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models.sight import Causal

DTYPES = ("bfloat16", "float16")
LARGEST_HEAD = 256


def prepare(seen: Causal) -> tuple[jax.Array, jax.Array, jax.Array]:
    """segments int[B, T], lengths int[B], and whether these say all: one segment a row, padding on the right."""
    segments = seen.segments
    lengths = jnp.sum(segments > 0, axis=1, dtype=jnp.int32)
    places = jnp.arange(segments.shape[1])
    in_order = segments == jnp.where(places < lengths[:, None], segments[:, :1], 0)
    return segments, jnp.maximum(lengths, 1), jnp.all(in_order)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, prepared: Any, scale: float | None = None) -> jax.Array:
    """See `attention.Implementation`.

    Raises:
        UserError: cuDNN cannot, or is not there; names the limit.
    """
    _check(q)
    segments, lengths, in_order = prepared
    return jax.lax.cond(
        in_order,
        lambda *qkv: _call(*qkv, scale, is_causal=True, query_seq_lengths=lengths, key_value_seq_lengths=lengths),
        lambda *qkv: _call(*qkv, scale, mask=Causal(segments).mask),
        q, k, v,
    )


def _call(q: jax.Array, k: jax.Array, v: jax.Array, scale: float | None, **seen: Any) -> jax.Array:
    try:
        return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn", **seen)
    except (NotImplementedError, RuntimeError) as error:
        raise errors.UserError(f"attention='cudnn': {error} Use attention='xla'") from error


def _check(q: jax.Array) -> None:
    """Limits of cuDNN that do not hang on the device."""
    _, length, _, head_dim = q.shape
    if q.dtype not in DTYPES:
        raise errors.UserError(f"attention='cudnn' computes in {' or '.join(DTYPES)}, not {q.dtype}: set dtype")
    if head_dim % 8 or head_dim > LARGEST_HEAD:
        raise errors.UserError(
            f"attention='cudnn' takes heads of a multiple of 8 features up to {LARGEST_HEAD}, not {head_dim}: "
            "use attention='xla'"
        )
    if length % 2:
        raise errors.UserError(
            f"attention='cudnn' takes an even number of tokens, not {length}: change the length, or use "
            "attention='xla'"
        )
