"""Finite scalar quantisation (Mentzer et al. 2023) of a whitened z: no codebook that could collapse."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors
from lapa_jax.models.quantizers import base
from lapa_jax.models.quantizers.whiten import Whiten


def fsq_codes(z: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Code indices int[...] of z float[..., D].

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


class FSQ(nn.Module):
    """Whitened finite scalar quantisation. `prod(levels)` codes.

    For the first `soft_steps` training steps a falling share of the rows keeps its unquantised value,
    so that the encoder finds the motion before the bits are rationed.
    """

    num_codes: int
    dim: int
    levels: tuple[int, ...]
    soft_steps: int = 0

    def setup(self) -> None:
        if any(level < 2 for level in self.levels) or int(np.prod(self.levels)) != self.num_codes:
            raise errors.UserError(
                f"model.quantizers.fsq.levels={tuple(self.levels)} must be 2 or more each and multiply to "
                f"model.num_codes={self.num_codes}"
            )
        self.whiten = Whiten()

    def __call__(self, z: jax.Array, train: bool = False) -> base.Quantized:
        z = self.whiten(z.astype(jnp.float32), train)
        codes = fsq_codes(z, self.levels)
        hard = self.lookup(codes)
        soft = 2.0 * jax.scipy.stats.norm.cdf(z) - 1.0
        quantised = soft + jax.lax.stop_gradient(hard - soft)
        if train and self.soft_steps and not self.is_initializing():
            share = 1.0 - self.whiten.get_variable("batch_stats", "count") / self.soft_steps
            kept = jax.random.uniform(self.make_rng("noise"), (z.shape[0], 1, 1)) < share
            quantised = jnp.where(kept, soft, quantised)
        return base.Quantized(quantised, codes)

    def lookup(self, codes: jax.Array) -> jax.Array:
        return fsq_codewords(codes, self.levels)
