"""Quantisers: a pre-quantised vector z becomes discrete codes and the codewords a decoder reads.

Both share one signature: `(z float[B, N, D], train) -> (codewords float[B, N, D], codes int32[B, N])`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def fsq_codes(z: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Indices of finite scalar quantisation (Mentzer et al. 2023): int[...], z float[..., D].

    Dimension d is cut into `levels[d]` equal-probability cells of a standard normal, so that a
    centred and whitened z uses every code.
    """
    digits = _digits(z, levels)
    strides = np.cumprod([1, *levels[:-1]])
    return jnp.sum(digits * strides, axis=-1).astype(jnp.int32)


def fsq_codewords(codes: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Codewords float[..., D] in [-1, 1] of code indices int[...]."""
    strides = np.cumprod([1, *levels[:-1]])
    digits = codes[..., None] // strides % np.array(levels)
    return 2.0 * digits / (np.array(levels) - 1.0) - 1.0


def _digits(z: jax.Array, levels: Sequence[int]) -> jax.Array:
    probability = jax.scipy.stats.norm.cdf(z)
    return jnp.clip(jnp.floor(probability * np.array(levels)), 0, np.array(levels) - 1).astype(jnp.int32)


def whiten(z: jax.Array, mean: jax.Array, covariance: jax.Array, eps: float = 1e-4) -> jax.Array:
    """(z - mean) with covariance float[D, D] divided out (Cholesky); eps is relative to its trace."""
    dim = covariance.shape[-1]
    floor = eps * jnp.trace(covariance) / dim + 1e-12
    root = jnp.linalg.cholesky(covariance + floor * jnp.eye(dim))
    rows = (z - mean).reshape(-1, dim)
    return jax.scipy.linalg.solve_triangular(root, rows.T, lower=True).T.reshape(z.shape)


class Whiten(nn.Module):
    """Centres z and makes its dimensions uncorrelated with unit variance, by batch statistics.

    This is what keeps codes in use: whatever offset or scale the encoder drifts to, the quantiser's
    cells stay in the middle of the data. Statistics are taken over the GLOBAL batch (under jit a
    mean over a sharded axis is global); running averages serve at inference. Gradients flow through
    the batch statistics: without that nothing opposes a growing z.
    """

    momentum: float = 0.95

    @nn.compact
    def __call__(self, z: jax.Array, train: bool) -> jax.Array:
        dim = z.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (dim,))
        cov = self.variable("batch_stats", "cov", jnp.eye, dim)
        count = self.variable("batch_stats", "count", jnp.zeros, ())
        if not train:
            return whiten(z, mean.value, cov.value)
        rows = z.reshape(-1, dim)
        batch_mean = jnp.mean(rows, axis=0)
        batch_cov = (rows - batch_mean).T @ (rows - batch_mean) / rows.shape[0]
        if not self.is_initializing():
            # A running mean that is exact in the first steps, exponential later.
            keep = jnp.minimum(self.momentum, count.value / (count.value + 1.0))
            mean.value = keep * mean.value + (1.0 - keep) * jax.lax.stop_gradient(batch_mean)
            cov.value = keep * cov.value + (1.0 - keep) * jax.lax.stop_gradient(batch_cov)
            count.value = count.value + 1.0
        return whiten(z, batch_mean, batch_cov)


class FSQ(nn.Module):
    """Whitened finite scalar quantisation: no codebook to collapse. `prod(levels)` codes.

    For the first `soft_steps` training steps a falling share of the rows keeps its unquantised value,
    so that the encoder finds the motion before the bits are rationed.
    """

    levels: tuple[int, ...]
    soft_steps: int = 0

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        whitened = Whiten(name="whiten")
        z = whitened(z.astype(jnp.float32), train)
        codes = fsq_codes(z, self.levels)
        hard = self.lookup(codes)
        soft = 2.0 * jax.scipy.stats.norm.cdf(z) - 1.0
        quantised = soft + jax.lax.stop_gradient(hard - soft)
        if train and self.soft_steps and not self.is_initializing():
            share = 1.0 - whitened.get_variable("batch_stats", "count") / self.soft_steps
            kept = jax.random.uniform(self.make_rng("noise"), (z.shape[0], 1, 1)) < share
            quantised = jnp.where(kept, soft, quantised)
        return quantised, codes

    def lookup(self, codes: jax.Array) -> jax.Array:
        return fsq_codewords(codes, self.levels)


class NSVQ(nn.Module):
    """Noise-substitution VQ (Vali & Bäckström 2022), as the official LAQ trains it.

    In training the codeword is z plus noise as long as the quantisation error; at inference it is the
    nearest codeword. Collapses from scratch (official issues 17 and 50): kept for the paper's recipe.
    """

    num_codes: int
    dim: int

    def setup(self) -> None:
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (self.num_codes, self.dim))

    def __call__(self, z: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        z = z.astype(jnp.float32)
        distance = jnp.sum(jnp.square(z[..., None, :] - self.codebook), axis=-1)
        codes = jnp.argmin(distance, axis=-1).astype(jnp.int32)
        hard = self.codebook[codes]
        if not train:
            return hard, codes
        noise = jax.random.normal(self.make_rng("noise"), z.shape)
        error = jnp.linalg.norm(z - hard, axis=-1, keepdims=True)
        length = jnp.linalg.norm(noise, axis=-1, keepdims=True)
        return z + (error / length + 1e-12) * noise, codes

    def lookup(self, codes: jax.Array) -> jax.Array:
        return self.codebook[codes]
