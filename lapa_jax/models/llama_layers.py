"""One layer of the trunk: norms, rotary attention over groups of heads, gated feed-forward; `Form` is the sizes.

Parameter names follow LWM's (wq, wk, wv, wo, w1, w2, w3).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lapa_jax.models import attention, lora, rotary
from lapa_jax.models.linear import Linear
from lapa_jax.sharding import constrain_heads, constrain_tokens

ACTIVATIONS = {"silu": nn.silu, "gelu_tanh": nn.gelu}

Cache = Mapping[str, jax.Array] | tuple[Mapping[str, jax.Array], ...]
"""{"k", "v"}: float[depth, B, S, K, Dh], keys (already turned) and values of S slots; K heads share N queries. Of
layers that are apart, such a dict of each, without the first axis."""


def empty_cache(shape: tuple[int, ...], dtype: jnp.dtype) -> dict[str, jax.Array]:
    return {name: jnp.zeros(shape, dtype) for name in ("k", "v")}



@dataclasses.dataclass(frozen=True)
class Form:
    """What all layers of a trunk have in common; `llama.Trunk` says what the names mean.

    Attributes:
        attention: a key of `attention.IMPLEMENTATIONS`.
        over_cache: tokens look at what is cached, where there is a cache; else at each other only.
        lora: the layers that have one, its rank and alpha.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    activation: str
    qkv_bias: bool
    qk_norm: bool
    post_norm: bool
    query_scale: float | None
    norm_eps: float
    norm_float32: bool
    dtype: jnp.dtype
    attention: str
    over_cache: bool
    lora: tuple[tuple[str, ...], int, float]

    def norm(self, name: str) -> "RMSNorm":
        return RMSNorm(self.norm_eps, self.dtype, self.norm_float32, name=name)

    def dense(self, features: int, name: str, use_bias: bool = False) -> nn.Module:
        layers, rank, alpha = self.lora
        if any(layer.endswith(f"/{name}") for layer in layers):
            return lora.LowRankDense(features, rank, alpha, use_bias, self.dtype, name=name)
        init = nn.initializers.lecun_normal()
        return Linear(features, use_bias=use_bias, kernel_init=init, dtype=self.dtype, name=name)


class RMSNorm(nn.Module):
    """x / rms(x) in float32, then rounded to `dtype` (x's own by default), times a learned scale.

    Attributes:
        in_float32: the scale multiplies before the result is rounded, as in Gemma.
    """

    eps: float = 1e-6
    dtype: jnp.dtype | None = None
    in_float32: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        dtype = self.dtype or x.dtype
        if self.in_float32:
            return (y * scale.astype(jnp.float32)).astype(dtype)
        return y.astype(dtype) * scale.astype(dtype)


class Attention(nn.Module):
    """Self-attention, with what a cache holds before it. Groups of queries share a head of keys and values."""

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, cache: Cache | None, turn: Any, seen: Any, slot: Any) -> Any:
        form = self.form
        q = self._heads(x, "wq", form.num_heads)
        k, v = (self._heads(x, name, form.num_kv_heads) for name in ("wk", "wv"))
        if form.qk_norm:
            q, k = form.norm("q_norm")(q), form.norm("k_norm")(k)
        q, k = rotary.rotate(q, *turn), rotary.rotate(k, *turn)
        if cache is not None:
            cache = {name: _written(cache[name], new, slot) for name, new in (("k", k), ("v", v))}
        if form.over_cache and cache is not None:
            k, v = (cache[name].astype(form.dtype) for name in ("k", "v"))
        y = attention.IMPLEMENTATIONS[form.attention].attend(q, k, v, seen, form.query_scale)
        y = checkpoint_name(y, "attention_out")
        return form.dense(x.shape[-1], "wo")(y.reshape(*x.shape[:2], -1)), cache

    def _heads(self, x: jax.Array, name: str, count: int) -> jax.Array:
        """float[B, T, count, Dh]"""
        y = self.form.dense(count * self.form.head_dim, name, self.form.qkv_bias)(x)
        return constrain_heads(y, count).reshape(*x.shape[:2], count, self.form.head_dim)


def _written(cache: jax.Array, new: jax.Array, slot: Any) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), slot, axis=1)


class FeedForward(nn.Module):
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gate = ACTIVATIONS[self.form.activation](self.form.dense(self.form.mlp_dim, "w1")(x))
        up = self.form.dense(self.form.mlp_dim, "w3")(x)
        return self.form.dense(x.shape[-1], "w2")(gate * up)


class Block(nn.Module):
    """Pre-norm attention and feed-forward; the signature is what `nn.scan` wants.

    `near` int32[] says which of two contexts is this layer's, where layers differ; else it is None, of one context.
    """

    form: Form

    @nn.compact
    def __call__(
        self, x: jax.Array, cache: Cache | None, near: jax.Array | None, context: Any, slot: Any
    ) -> tuple[jax.Array, Cache | None]:
        form, x = self.form, constrain_tokens(x)
        turn, seen = context if near is None else jax.tree.map(lambda both: both[near], context)
        y = form.norm("attention_norm")(x)
        y, cache = Attention(form, name="attention")(y, cache, turn, seen, slot)
        x = x + (form.norm("attention_post_norm")(y) if form.post_norm else y)
        y = FeedForward(form, name="feed_forward")(form.norm("ffn_norm")(x))
        return x + (form.norm("ffn_post_norm")(y) if form.post_norm else y), cache
