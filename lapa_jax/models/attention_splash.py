"""Splash attention, JAX's own kernel for TPUs: causal within segments, of all pairs only blocks in memory."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import PartitionSpec as P

from lapa_jax import errors
from lapa_jax.sharding import splits

BLOCKS = (512, 256, 128)
"""Tokens that are looked at together, the most that divide their number. No fewer: a lane of a TPU has 128."""


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    scale: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """See `attention.Implementation`. XLA cannot split the kernel, so each device calls it for its rows and heads.

    Args:
        segments: int[B, T], of both queries and keys; padding (0) sees the padding before it.
        interpret: run the kernel as plain XLA, on any device, to test it.

    Raises:
        UserError: there is no TPU.
    """
    if not interpret and (device := jax.default_backend()) != "tpu":
        raise errors.UserError(f"attention='splash' wants a TPU, and this is a {device}: use attention='xla'")
    run = functools.partial(_attend, scale=q.shape[-1] ** -0.5 if scale is None else scale, interpret=interpret)
    if jax.sharding.get_abstract_mesh().empty:
        return run(q, k, v, segments)
    rows, heads = splits(q.shape[0], q.shape[2], k.shape[2])
    whole = P(rows, None, heads, None)
    specs = dict(in_specs=(whole, whole, whole, P(rows, None)), out_specs=whole, check_vma=False)
    return jax.shard_map(run, **specs)(q, k, v, segments)


def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, scale: float, interpret: bool
) -> jax.Array:
    length = q.shape[1]
    pad = -length % BLOCKS[-1]
    q, k, v = (_heads_first(x, pad) for x in (q * jnp.asarray(scale, q.dtype), k, v))
    segments = jnp.pad(segments, ((0, 0), (0, pad)))
    kernel = _kernel(q.shape[1], q.shape[2], interpret)
    y = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, splash_attention.SegmentIds(ids, ids)))(q, k, v, segments)
    return y.swapaxes(1, 2)[:, :length]


def _heads_first(x: jax.Array, pad: int) -> jax.Array:
    """float[B, T, N, D] -> float[B, N, T + pad, D]"""
    return jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))).swapaxes(1, 2)


def _kernel(num_heads: int, length: int, interpret: bool) -> Callable[..., jax.Array]:
    block = next(size for size in BLOCKS if length % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    return splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([splash_attention.CausalMask((length, length))] * num_heads),
        block_sizes=splash_attention.BlockSizes(**{f"block_{name}": block for name in names}),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name="attention_out",  # what remat="attention" keeps
        interpret=interpret,
    )
