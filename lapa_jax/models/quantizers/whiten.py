"""Whitening: z is centred and decorrelated, wherever the encoder drifts to."""

import flax.linen as nn
import jax
import jax.numpy as jnp


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
