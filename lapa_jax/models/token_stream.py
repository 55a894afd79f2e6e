"""Tokens of several vocabularies in one sequence: ids, kinds, and which belong together."""

import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax.models import sight


@flax.struct.dataclass
class Tokens:
    """A batch of sequences.

    Attributes:
        ids: int[B, T]; of the vocabulary that the kind names, or the row of what an image encoder gave.
        kinds: int[B, T]; see `lapa_jax.vocab`.
        segments: int[B, T]; 0 is padding. Tokens see those of their own segment only, so that several
            examples may share a row.
    """

    ids: jax.Array
    kinds: jax.Array
    segments: jax.Array

    @classmethod
    def of(cls, ids: jax.Array, kind: int, real: jax.Array | None = None) -> "Tokens":
        """Tokens of one kind and one segment; `real` bool[B, T] marks what is no padding, all by default."""
        segments = jnp.ones(ids.shape, jnp.int32) if real is None else real.astype(jnp.int32)
        return cls(ids.astype(jnp.int32), jnp.full(ids.shape, kind, jnp.int32), segments)

    @property
    def real(self) -> jax.Array:
        """bool[B, T]: no padding."""
        return self.segments > 0

    @property
    def positions(self) -> jax.Array:
        """int[B, T]: how many real tokens came before, in the row. Padding takes no place."""
        return jnp.maximum(jnp.cumsum(self.real, axis=1) - 1, 0)

    @property
    def seen(self) -> sight.Causal:
        """Each token sees itself and what came before it in its segment."""
        return sight.Causal(self.segments)


def concatenate(*parts: Tokens) -> Tokens:
    """One after the other, along time."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *parts)
