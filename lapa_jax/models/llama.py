"""LLaMA trunk: RMSNorm, rotary positions, SwiGLU, attention under any mask; layers under `nn.scan`, with a cache.

Parameter names follow LWM's (wq, wk, wv, wo, w1, w2, w3), with the layer axis first.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lapa_jax import errors
from lapa_jax.models import rotary
from lapa_jax.sharding import constrain_batch

SIZES: dict[str, dict[str, int]] = {
    "debug": dict(width=64, depth=2, num_heads=2, mlp_dim=128),
    "demo": dict(width=128, depth=2, num_heads=4, mlp_dim=256),
    "200m": dict(width=1024, depth=12, num_heads=16, mlp_dim=2816),
    "1b": dict(width=2048, depth=22, num_heads=32, mlp_dim=5632),
    "3b": dict(width=3200, depth=26, num_heads=32, mlp_dim=8640),
    "7b": dict(width=4096, depth=32, num_heads=32, mlp_dim=11008),
}
"""Trunk sizes by name; "7b" is LLaMA-7B as in LWM-Chat-1M."""

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention_out"),
}
"""What the backward pass may keep of a layer: all of it, nothing, products with weights, what attention gave."""

Cache = Mapping[str, jax.Array]
"""{"k", "v"}: float[depth, B, S, N, Dh], keys (already turned) and values of S slots."""


class RMSNorm(nn.Module):
    """x / rms(x) in float32, then rounded to `dtype` (x's own by default), times a learned scale."""

    eps: float = 1e-6
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        dtype = self.dtype or x.dtype
        return y.astype(dtype) * scale.astype(dtype)


def _dense(features: int, name: str, dtype: jnp.dtype) -> nn.Dense:
    init = nn.initializers.lecun_normal()
    return nn.Dense(features, use_bias=False, kernel_init=init, dtype=dtype, name=name)


class Attention(nn.Module):
    """Self-attention, with what a cache holds before it.

    Attributes:
        implementation: of `jax.nn.dot_product_attention`: None lets JAX choose; "xla", or "cudnn" on a GPU.
    """

    num_heads: int
    dtype: jnp.dtype
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None, turn: Any, mask: jax.Array, slot: Any) -> Any:
        batch, length, width = x.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        q, k, v = (_dense(width, n, self.dtype)(x).reshape(heads) for n in ("wq", "wk", "wv"))
        q, k = rotary.rotate(q, *turn), rotary.rotate(k, *turn)
        if cache is not None:
            k, v = (_written(cache[name], new, slot) for name, new in (("k", k), ("v", v)))
            cache = {"k": k, "v": v}
            k, v = k.astype(self.dtype), v.astype(self.dtype)
        y = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=self.implementation)
        y = checkpoint_name(y, "attention_out")
        return _dense(width, "wo", self.dtype)(y.reshape(batch, length, width)), cache


def _written(cache: jax.Array, new: jax.Array, slot: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), slot, axis=1)


class FeedForward(nn.Module):
    mlp_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate = nn.silu(_dense(self.mlp_dim, "w1", self.dtype)(x))
        up = _dense(self.mlp_dim, "w3", self.dtype)(x)
        return _dense(x.shape[-1], "w2", self.dtype)(gate * up)


class Block(nn.Module):
    """Pre-norm attention and feed-forward; the signature is what `nn.scan` wants."""

    num_heads: int
    mlp_dim: int
    dtype: jnp.dtype
    implementation: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None, context: Any) -> tuple[jax.Array, Cache | None]:
        x = constrain_batch(x)
        h = RMSNorm(dtype=self.dtype, name="attention_norm")(x)
        attention = Attention(self.num_heads, self.dtype, self.implementation, name="attention")
        y, cache = attention(h, cache, *context)
        x = x + y
        h = RMSNorm(dtype=self.dtype, name="ffn_norm")(x)
        return x + FeedForward(self.mlp_dim, self.dtype, name="feed_forward")(h), cache


class Trunk(nn.Module):
    """Features of a sequence, each from those that it may look at.

    Attributes:
        theta: base of the rotary frequencies.
        rope: one of `rotary.TABLES`; "bfloat16" as the official weights were trained.
        rope_length: positions in that table.
        dtype: of matrix products; what runs along the residuals has the dtype of the input.
        remat: a key of REMAT.
        attention: implementation of the attention, see `Attention`.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    theta: float = 10_000.0
    rope: str = "exact"
    rope_length: int = 2048
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    attention: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, positions: jax.Array, mask: jax.Array, cache: Cache | None = None, slot: Any = 0
    ) -> tuple[jax.Array, Cache | None]:
        """
        Args:
            x: float[B, T, D].
            positions: int[B, T].
            mask: bool[B, 1, T, S], True where a token may look; S is T without a cache, else its slots.
            cache: keys and values seen before; those of x are written from `slot` on.
            slot: int[].

        Returns:
            float[B, T, D] and the cache with x in it.
        """
        block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=False) if REMAT[self.remat] else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=self.depth,
        )
        turn = rotary.cos_sin(positions, self.width // self.num_heads, self.theta, self.rope, self.rope_length)
        sizes = (self.num_heads, self.mlp_dim, self.dtype, self.attention)
        x, cache = layers(*sizes, name="layers")(x, cache, (turn, mask, slot))
        return RMSNorm(dtype=self.dtype, name="final_norm")(x), cache

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """Room for that many tokens of each row, in `dtype`."""
        shape = (self.depth, batch, slots, self.num_heads, self.width // self.num_heads)
        return {name: jnp.zeros(shape, self.dtype) for name in ("k", "v")}


def sizes(size: str, **options: Any) -> dict[str, Any]:
    """Keyword arguments of a `Trunk` of SIZES.

    Raises:
        UserError: no such size, remat policy or rotary table; names what there is.
    """
    for name, value, known in (
        ("size", size, SIZES),
        ("remat", options.get("remat", "none"), REMAT),
        ("rope", options.get("rope", "exact"), rotary.TABLES),
    ):
        if value not in known:
            raise errors.UserError(f"model.{name}={value!r}: choose one of {', '.join(known)}")
    return {**SIZES[size], **options}
