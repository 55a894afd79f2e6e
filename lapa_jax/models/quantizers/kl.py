"""A continuous bottleneck: a Gaussian whose information is limited by its divergence from the standard one."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax.models.quantizers import base


class KL(nn.Module):
    """z is the mean; the spread is learned (Kingma & Welling 2013; beta of Higgins et al. 2017).

    There are no codes: stage 2 needs a discrete quantiser, probes and continuous policies do not. Training
    reads a sample, inference the mean.

    Attributes:
        beta: weight of the divergence (nats a token, mean over tokens) in the training loss.
    """

    num_codes: int
    dim: int
    beta: float = 1e-5

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> base.Quantized:
        mean = z.astype(jnp.float32)
        log_std = nn.Dense(self.dim, name="dense_spread", kernel_init=nn.initializers.zeros)(mean)
        log_std = jnp.clip(log_std, -6.0, 2.0)
        nats = 0.5 * jnp.sum(mean**2 + jnp.exp(2.0 * log_std) - 1.0 - 2.0 * log_std, axis=-1)
        log = {"kl_nats": jnp.mean(nats)}
        if not train:
            return base.Quantized(mean, None, 0.0, log)
        noise = jax.random.normal(self.make_rng("noise"), mean.shape)
        return base.Quantized(mean + jnp.exp(log_std) * noise, None, self.beta * jnp.mean(nats), log)
