"""From the features of a frozen encoder to tokens of the trunk."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax.models.linear import Linear


class Projector(nn.Module):
    """Two layers, as in LLaVA-1.5 (Liu et al. 2024), after a norm: encoders differ in scale by orders of magnitude.

    Attributes:
        width: of the trunk.
        hidden: units between the layers; 0 is as many as `width`.
    """

    width: int
    hidden: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """float[..., F] -> float[..., width]."""
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(features.astype(self.dtype))
        x = Linear(self.hidden or self.width, dtype=self.dtype, name="project_in")(x)
        return Linear(self.width, dtype=self.dtype, name="project_out")(nn.gelu(x))
