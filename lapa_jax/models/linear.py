"""Linear layers over rows."""

import flax.linen as nn
import jax


class Linear(nn.Dense):
    """`nn.Dense` over rows. Leading axes are one axis inside.

    The gradient of the kernel contracts them. When there are several, XLA (on CPUs) first transposes both factors
    in memory, and its product of those takes twice the time.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = super().__call__(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], self.features)
