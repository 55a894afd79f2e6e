"""The transformer of LAPA's latent action quantizer: PEG, cosine attention, gated feed-forward.

Tokens of a clip are float[B, S, L, D]: S sequences of L tokens that attend to each other. Spatial
transformers see one sequence a frame (S = T, L = H * W), the temporal one a sequence a patch
(S = H * W, L = T).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax.models.cosine_attention import attend
from lapa_jax.models.depthwise import causal_depthwise_conv
from lapa_jax.models.linear import Linear

KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform in +-1/sqrt(fan in), how the kernels of the published model started."""

PEG_INIT = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=(0, 1, 2), out_axis=3
)

class PEG(nn.Module):
    """Position encoding generator (Chu et al. 2021): the convolution tells tokens where they are.

    Attributes:
        grid: (T, H, W) of the clip.
        temporal: sequences run over time, one a patch; else over space, one a frame.
        legacy: read temporal sequences as the official code does: [B, H*W, T, D] is reinterpreted
            as [B, T, H, W, D] without moving anything, which scrambles positions.
    """

    grid: tuple[int, int, int]
    temporal: bool = False
    legacy: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float[B, S, L, D] -> the same shape, to be added to x."""
        kernel = self.param("kernel", PEG_INIT, (3, 3, 3, x.shape[-1])).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(self.dtype)
        swap = self.temporal and not self.legacy
        clip = x.swapaxes(1, 2) if swap else x
        out = causal_depthwise_conv(clip.reshape(x.shape[0], *self.grid, -1), kernel) + bias
        out = out.reshape(clip.shape)
        return out.swapaxes(1, 2) if swap else out


class UnitScale(nn.Module):
    """Unit length along the last axis, then a learned factor for each of its elements."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        squared = jnp.sum(x * x, axis=-1, keepdims=True)
        return (x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24)) * scale).astype(self.dtype)


class Attention(nn.Module):
    """Multi-head attention with unit-length queries and keys; no mask, no dropout.

    As published, self-attention normalises what its queries are made of but not what its keys and
    values are made of; with a context both are.

    Attributes:
        num_null_kv: learned keys and values put before those of the context.
        legacy: also own the norm that the official self-attention creates and never uses.
    """

    num_heads: int
    head_dim: int
    num_null_kv: int = 0
    legacy: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, bias: jax.Array | None = None
    ) -> jax.Array:
        """float[..., L, D], context float[..., M, D], bias on the logits float[N, L, M]."""
        inner = self.num_heads * self.head_dim
        source = x if context is None else layer_norm("context_norm", self.dtype, False)(context)
        if context is None and self.legacy:
            layer_norm("context_norm", self.dtype, False)(x)
        q = dense(inner, "to_q", self.dtype)(layer_norm("norm", self.dtype, False)(x))
        k, v = jnp.split(dense(2 * inner, "to_kv", self.dtype)(source), 2, axis=-1)
        q, k, v = (t.reshape(*t.shape[:-1], self.num_heads, self.head_dim) for t in (q, k, v))
        if self.num_null_kv:
            k, v = self._prepend_null(k, v)
        q = UnitScale(self.dtype, name="q_norm")(q)
        k = UnitScale(self.dtype, name="k_norm")(k)
        out = attend(q, k, v, bias)
        return dense(x.shape[-1], "to_out", self.dtype)(out.reshape(*x.shape[:-1], inner))

    def _prepend_null(self, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = (2, self.num_null_kv, self.num_heads, self.head_dim)
        nulls = self.param("null_kv", nn.initializers.normal(1.0), shape).astype(self.dtype)
        nulls = jnp.broadcast_to(nulls[:, *[None] * (k.ndim - 3)], (2, *k.shape[:-3], *shape[1:]))
        return jnp.concatenate([nulls[0], k], axis=-3), jnp.concatenate([nulls[1], v], axis=-3)


class FeedForward(nn.Module):
    """Norm, then a GELU-gated unit of 8/3 the width (Shazeer 2020)."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inner = int(4 * (2 / 3) * x.shape[-1])
        y = dense(2 * inner, "up", self.dtype)(layer_norm("norm", self.dtype)(x))
        y, gate = jnp.split(y, 2, axis=-1)
        return dense(x.shape[-1], "down", self.dtype)(gelu(gate) * y)


class Block(nn.Module):
    """PEG, self-attention, cross-attention where there is a context, feed-forward; all residual."""

    grid: tuple[int, int, int]
    num_heads: int
    head_dim: int
    temporal: bool = False
    legacy: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, bias: jax.Array | None = None, context: jax.Array | None = None
    ) -> jax.Array:
        heads = dict(num_heads=self.num_heads, head_dim=self.head_dim, dtype=self.dtype)
        x = x + PEG(self.grid, self.temporal, self.legacy, self.dtype, name="peg")(x)
        x = x + Attention(**heads, legacy=self.legacy, name="attention")(x, bias=bias)
        if context is not None:
            x = x + Attention(**heads, num_null_kv=2, name="cross_attention")(x, context)
        return x + FeedForward(self.dtype, name="feed_forward")(x)


class Transformer(nn.Module):
    """`depth` blocks and a norm. `remat` recomputes each block in the backward pass."""

    depth: int
    grid: tuple[int, int, int]
    num_heads: int
    head_dim: int
    temporal: bool = False
    legacy: bool = False
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, bias: jax.Array | None = None, context: jax.Array | None = None
    ) -> jax.Array:
        """x float[B, S, L, D], bias float[N, L, L], context float[B, S, M, D] -> like x."""
        block = nn.remat(Block) if self.remat else Block
        sizes = (self.grid, self.num_heads, self.head_dim, self.temporal, self.legacy, self.dtype)
        for i in range(self.depth):
            x = block(*sizes, name=f"layers_{i}")(x, bias, context)
        return layer_norm("norm_out", self.dtype, False)(x)


class PositionBias(nn.Module):
    """Attention bias from a small MLP on the log-scaled offset between two patches of a grid.

    It runs once per distinct offset, and the result is read out for all pairs of patches.
    """

    width: int
    num_heads: int
    grid: tuple[int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        """-> float32[N, H*W, H*W], for the patch that looks and the patch looked at, row-major."""
        height, width = self.grid
        offsets = np.indices((2 * height - 1, 2 * width - 1)).reshape(2, -1).T.astype(np.float32)
        offsets -= (height - 1, width - 1)
        x = jnp.asarray(np.sign(offsets) * np.log1p(np.abs(offsets)))
        for name in ("hidden_0", "hidden_1"):
            x = nn.leaky_relu(nn.Dense(self.width, kernel_init=KERNEL_INIT, name=name)(x), 0.1)
        x = nn.Dense(self.num_heads, kernel_init=KERNEL_INIT, name="out")(x)
        row, column = np.divmod(np.arange(height * width), width)
        down = row[:, None] - row[None] + height - 1
        right = column[:, None] - column[None] + width - 1
        return jnp.moveaxis(x[down * (2 * width - 1) + right], -1, 0)


def dense(features: int, name: str, dtype: jnp.dtype, use_bias: bool = False) -> Linear:
    """A linear layer as the published model starts it; without bias unless asked."""
    return Linear(features, use_bias=use_bias, dtype=dtype, kernel_init=KERNEL_INIT, name=name)


def gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function, exactly; JAX's own takes the complement, which costs twice."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def layer_norm(name: str, dtype: jnp.dtype, use_bias: bool = True) -> nn.LayerNorm:
    """Layer norm with the epsilon of the published model and an exact variance."""
    return nn.LayerNorm(1e-5, dtype=dtype, use_bias=use_bias, use_fast_variance=False, name=name)
