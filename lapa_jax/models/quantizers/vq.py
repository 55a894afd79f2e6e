"""Vector quantisation (van den Oord et al. 2017), the codebook learned by gradient or by moving averages."""

import jax
import jax.numpy as jnp

from lapa_jax.models.quantizers import base, codebook
from lapa_jax.models.quantizers.whiten import Whiten


class VQ(codebook.Codebook):
    """Straight-through nearest row; the rows follow z by gradient, z its row by the commitment loss.

    Attributes:
        commitment: weight of the pull of z towards its row.
        whiten: centre and decorrelate z first, so that rows and z are on one scale from the start.
    """

    commitment: float = 0.01
    whiten: bool = True

    def setup(self) -> None:
        super().setup()
        if self.whiten:
            self.centre = Whiten()

    def __call__(self, z: jax.Array, train: bool = False) -> base.Quantized:
        z = z.astype(jnp.float32)
        z = self.centre(z, train) if self.whiten else z
        codes = codebook.nearest(z, self.table())
        hard = self.lookup(codes)
        log = self.log(z, hard)
        if not train:
            return base.Quantized(hard, codes, 0.0, log)
        stop = jax.lax.stop_gradient
        loss = self.commitment * jnp.mean(jnp.square(z - stop(hard)))
        loss += self.follow(stop(z), codes, hard)
        self.observe(z, codes)
        return base.Quantized(z + stop(hard - z), codes, loss, log)

    def follow(self, z: jax.Array, codes: jax.Array, hard: jax.Array) -> jax.Array:
        """How the rows learn; the loss term that does it."""
        return jnp.mean(jnp.square(z - hard))


class EMAVQ(VQ):
    """The rows are moving averages of the z that chose them; no gradient, no optimizer.

    Attributes:
        decay: of the averages, a step.
    """

    decay: float = 0.99

    def make_table(self, init: jax.nn.initializers.Initializer) -> None:
        shape = (self.num_codes, self.dim)
        self.codebook = self.variable(
            codebook.USAGE, "codewords", lambda: init(self.make_rng("params"), shape)
        )
        self.weight = self.variable(codebook.USAGE, "weight", jnp.ones, (self.num_codes,))

    def table(self) -> jax.Array:
        return self.codebook.value

    def follow(self, z: jax.Array, codes: jax.Array, hard: jax.Array) -> float:
        if not self.is_initializing() and self.is_mutable_collection(codebook.USAGE):
            chosen = jax.nn.one_hot(codes.reshape(-1), self.num_codes)
            old, new = self.decay * self.weight.value, (1.0 - self.decay) * jnp.sum(chosen, axis=0)
            total = self.decay * self.weight.value[:, None] * self.codebook.value
            total += (1.0 - self.decay) * chosen.T @ z.reshape(-1, self.dim)
            self.weight.value = old + new
            self.codebook.value = total / (old + new + 1e-20)[:, None]
        return 0.0

    def renew(self, table: jax.Array, dead: jax.Array) -> None:
        self.codebook.value = table
        self.weight.value = jnp.where(dead, jnp.mean(self.weight.value), self.weight.value)
