"""What learned codebooks share: the nearest row, how often each is used, and new life for dead ones."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import errors

USAGE = "codebook"
"""The variable collection of counts; it is part of the train state, so checkpoints and all hosts have it."""


LARGE = 256
"""From so many rows on, distances are taken by a matrix product."""


def squared_distance(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """float32[..., K], z float[..., D], codebook float[K, D].

    Of large codebooks as |z|² + |e|² - 2 z·e, which is many times as fast, with a rounding error
    that grows with |z|² (so it may be a little below 0).
    """
    if len(codebook) < LARGE:
        return jnp.sum(jnp.square(z[..., None, :] - codebook), axis=-1)
    product = jnp.einsum("...d,kd->...k", z, codebook, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(jnp.square(z), axis=-1, keepdims=True) + jnp.sum(jnp.square(codebook), axis=-1)
    return lengths - 2.0 * product


def nearest(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """Index of the closest row: int32[...], z float[..., D], codebook float[K, D]; ties go to the lowest."""
    return jnp.argmin(squared_distance(z, codebook), axis=-1).astype(jnp.int32)


def far_rows(rows: jax.Array, codebook: jax.Array, count: int, key: jax.Array) -> jax.Array:
    """`count` rows of float[M, D], likelier the further they are from the codebook: float[count, D].

    Drawn without replacement in proportion to the squared distance (k-means++, Arthur & Vassilvitskii 2007),
    so that restarted codes land where the codebook is missing, not in the largest cluster.
    """
    distance = jnp.maximum(jnp.min(squared_distance(rows, codebook), axis=-1), 0.0)
    noise = jax.random.gumbel(key, distance.shape)
    order = jnp.argsort(-(jnp.log(distance + 1e-20) + noise))
    return rows[jnp.resize(order, (count,))]


def restart(
    codebook: jax.Array, counts: jax.Array, rows: jax.Array, threshold: float
) -> tuple[jax.Array, jax.Array]:
    """Codes used less than `threshold` times their fair share take rows of current data.

    Args:
        codebook: float[K, D]. counts: float[K], uses since the last look. rows: float[K, D].

    Returns:
        The codebook and which rows are new: bool[K].
    """
    dead = counts < threshold * jnp.sum(counts) / counts.shape[0]
    taken = rows[jnp.cumsum(dead) - 1]  # the first rows, in order
    return jnp.where(dead[:, None], taken, codebook), dead


class Codebook(nn.Module):
    """Base of quantisers with a codebook float[K, D].

    Counts are of the global batch (under jit a sum over a sharded axis is global). Dead codes are looked for
    once each code had the chance of 20 uses, and at the first step, which puts the codebook where the
    data is. Subclasses say how codes become codewords and how the codebook learns.

    Attributes:
        num_codes, dim: K and D.
        revive: "data" restarts dead codes from current data; "none" leaves them dead.
        threshold: share of its fair share below which a code is dead.
    """

    num_codes: int
    dim: int
    revive: str = "data"
    threshold: float = 0.1

    CHANCES = 20  # uses a code could have had before it is called dead

    def setup(self) -> None:
        if self.revive not in ("data", "none"):
            raise errors.UserError(f"no revive {self.revive!r} in model.quantizers; choose data or none")
        self.make_table(nn.initializers.normal(1.0))
        self.counts = self.variable(USAGE, "counts", jnp.zeros, (self.num_codes,))
        self.revived = self.variable(USAGE, "revived", jnp.zeros, ())
        self.steps = self.variable(USAGE, "steps", jnp.zeros, ())
        self.rows = self.variable(USAGE, "rows", jnp.zeros, (self.num_codes, self.dim))

    def make_table(self, init: jax.nn.initializers.Initializer) -> None:
        """Where the rows live: a parameter."""
        self.codebook = self.param("codebook", init, (self.num_codes, self.dim))

    def table(self) -> jax.Array:
        """The rows: float32[K, D]."""
        return self.codebook

    def lookup(self, codes: jax.Array) -> jax.Array:
        return self.table()[codes]

    def observe(self, z: jax.Array, codes: jax.Array) -> None:
        """Count uses, and keep rows of z that dead codes may take."""
        if self.is_initializing() or not self.is_mutable_collection(USAGE):
            return
        z = jax.lax.stop_gradient(z).reshape(-1, self.dim)
        self.counts.value += jnp.sum(jax.nn.one_hot(codes.reshape(-1), self.num_codes), axis=0)
        self.rows.value = far_rows(
            z, jax.lax.stop_gradient(self.table()), self.num_codes, self.make_rng("noise")
        )
        self.steps.value += 1.0

    def maintain(self, batches: int = 1) -> None:
        """Restart dead codes. Called between two gradients, with params mutable.

        Args:
            batches: seen since the last call, more than one where gradients are accumulated.
        """
        if self.revive == "none":
            return
        due = (self.steps.value == batches) | (jnp.sum(self.counts.value) >= self.CHANCES * self.num_codes)
        fresh, dead = restart(self.table(), self.counts.value, self.rows.value, self.threshold)
        dead = dead & due
        self.renew(jnp.where(dead[:, None], fresh, self.table()), dead)
        self.revived.value += jnp.sum(dead)
        self.counts.value = jnp.where(due, 0.0, self.counts.value)

    def renew(self, table: jax.Array, dead: jax.Array) -> None:
        """Take over `table` float[K, D], whose rows `dead` bool[K] are new."""
        self.put_variable("params", "codebook", table)

    def log(self, z: jax.Array, hard: jax.Array) -> dict[str, Any]:
        """The quantisation error as a share of the variance of z, and the restarts so far."""
        z = z.reshape(-1, self.dim)
        variance = jnp.mean(jnp.square(z - jnp.mean(z, axis=0)))
        error = jnp.mean(jnp.square(z - hard.reshape(-1, self.dim)))
        return {"quantise_error": error / (variance + 1e-12), "revived": self.revived.value}
