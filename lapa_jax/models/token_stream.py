"""Tokens of several vocabularies in one sequence: ids, kinds, and which belong together."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Tokens:
    """A batch of sequences.

    Attributes:
        ids: int[B, T]; of the vocabulary that the kind names, or the row of what an image encoder gave.
        kinds: int[B, T]; see `lapa_jax.vocab`.
        segments: int[B, T]; 0 is padding, and along a row they rise. Tokens see those of their own segment only,
            so that several examples may share a row.
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
        """int[B, T]: how many real tokens came before in the segment. Padding takes no place."""
        count = jnp.cumsum(self.real, axis=1)
        highest = jax.lax.cummax(self.segments, axis=1)
        begins = self.segments > jnp.pad(highest[:, :-1], ((0, 0), (1, 0)))
        before = jax.lax.cummax(jnp.where(begins, count - 1, 0), axis=1)
        return jnp.maximum(count - 1 - before, 0)

    @property
    def mask(self) -> jax.Array:
        """bool[B, 1, T, T]: each token sees itself and what came before it in its segment."""
        length = self.ids.shape[1]
        same = self.segments[:, :, None] == self.segments[:, None, :]
        before = jnp.tril(jnp.ones((length, length), bool))
        seen = same & before & self.real[:, None, :]
        return (seen | jnp.eye(length, dtype=bool))[:, None]  # padding sees itself: a softmax wants a key


    def filled(self, kind: int, ids: jax.Array, into: int) -> "Tokens":
        """Tokens of one kind as tokens of another, with int[B, M] in the place of the numbers of these."""
        mine = self.kinds == kind
        found = rows_at(ids.astype(jnp.int32), jnp.where(mine, self.ids, 0))
        return self.replace(ids=jnp.where(mine, found, self.ids), kinds=jnp.where(mine, into, self.kinds))


def rows_at(values: jax.Array, places: jax.Array) -> jax.Array:
    """values[b, places[b, n]] of each row b: values [B, M, ...], int[B, N] -> [B, N, ...]."""
    return jnp.take_along_axis(values, places.reshape(*places.shape, *(1,) * (values.ndim - 2)), axis=1)


def places_of(mask: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """The first `most` places of each row where bool[B, T] is True: int[B, most], and which of them are, bool."""
    places = jnp.argsort(~mask, axis=1, stable=True)[:, :most]
    return places, jnp.take_along_axis(mask, places, axis=1)


def concatenate(*parts: Tokens) -> Tokens:
    """One after the other, along time."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *parts)
