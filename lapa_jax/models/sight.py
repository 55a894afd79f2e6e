"""Who may look at whom: described by its parts, so that each implementation of attention builds what it needs."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Causal:
    """Each token sees itself and what came before it in its segment.

    Attributes:
        segments: int[B, T]; 0 is padding, which no other token sees. What padding sees is up to the implementation.
    """

    segments: jax.Array

    @property
    def mask(self) -> jax.Array:
        """bool[B, 1, T, T]; padding sees itself: a softmax wants a key."""
        length = self.segments.shape[1]
        same = self.segments[:, :, None] == self.segments[:, None, :]
        before = jnp.tril(jnp.ones((length, length), bool))
        seen = same & before & (self.segments > 0)[:, None, :]
        return (seen | jnp.eye(length, dtype=bool))[:, None]


def nearest(mask: jax.Array, window: int) -> jax.Array:
    """bool[B, 1, T, S]: of those that each token may look at, the last `window`. S runs in the order of time."""
    after = jnp.cumsum(mask[..., ::-1], axis=-1, dtype=jnp.int32)[..., ::-1]
    return mask & (after <= window)
