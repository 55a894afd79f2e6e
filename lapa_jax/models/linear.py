"""Linear layers over rows."""

import flax.linen as nn
import jax

from lapa_jax.sharding import along


class Linear(nn.Dense):
    """`nn.Dense` over rows. Leading axes are one axis inside, see `rows`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(rows(x)).reshape(*x.shape[:-1], self.features)


def rows(x: jax.Array) -> jax.Array:
    """[..., D] -> [N, D], or x itself where the mesh splits the tokens of a row.

    The gradient of a kernel contracts the leading axes. When there are several, XLA (on CPUs) first transposes both
    factors in memory, and its product of those takes twice the time. But of an axis made of batch and tokens no
    device can keep its tokens only: XLA would gather them all, layer by layer.
    """
    return x if along("sequence") > 1 else x.reshape(-1, x.shape[-1])
