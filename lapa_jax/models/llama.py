"""LLaMA trunk: RMSNorm, rotary positions, SwiGLU, causal attention; layers under `nn.scan`.

Parameter names follow LWM's (wq, wk, wv, wo, w1, w2, w3), with the layer axis first.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax.sharding import constrain_batch

SIZES: dict[str, dict[str, int]] = {
    "debug": dict(width=64, depth=2, num_heads=2, mlp_dim=128),
    "demo": dict(width=128, depth=2, num_heads=4, mlp_dim=256),
    "200m": dict(width=1024, depth=12, num_heads=16, mlp_dim=2816),
    "7b": dict(width=4096, depth=32, num_heads=32, mlp_dim=11008),
}
"""Trunk sizes by name; "7b" is LLaMA-7B as in LWM-Chat-1M."""


class RMSNorm(nn.Module):
    """x / rms(x) * scale, computed in float32."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * scale.astype(x.dtype)


def rotary(x: jax.Array, theta: float) -> jax.Array:
    """Rotate interleaved pairs (x[2i], x[2i+1]) of float[B, T, N, Dh] by position (Meta's layout)."""
    length, dim = x.shape[1], x.shape[-1]
    frequency = theta ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    even, odd = x[..., ::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def _dense(features: int, name: str, dtype: jnp.dtype) -> nn.Dense:
    init = nn.initializers.lecun_normal()
    return nn.Dense(features, use_bias=False, kernel_init=init, dtype=dtype, name=name)


class Attention(nn.Module):
    num_heads: int
    theta: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        q, k, v = (_dense(width, n, self.dtype)(x).reshape(heads) for n in ("wq", "wk", "wv"))
        q, k = rotary(q, self.theta), rotary(k, self.theta)
        y = jax.nn.dot_product_attention(q, k, v, mask=mask)
        return _dense(width, "wo", self.dtype)(y.reshape(batch, length, width))


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
    theta: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        x = constrain_batch(x)
        h = RMSNorm(name="attention_norm")(x)
        x = x + Attention(self.num_heads, self.theta, self.dtype, name="attention")(h, mask)
        h = RMSNorm(name="ffn_norm")(x)
        return x + FeedForward(self.mlp_dim, self.dtype, name="feed_forward")(h), None


class Trunk(nn.Module):
    """float[B, T, D] with mask bool[B, 1, T, T] (True: may look) -> float[B, T, D]."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    theta: float = 10_000.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        x, _ = layers(self.num_heads, self.mlp_dim, self.theta, self.dtype, name="layers")(x, mask)
        return RMSNorm(name="final_norm")(x)
