"""Noise-substitution VQ (Vali & Bäckström 2022): as the official LAQ has it, and with its bugs mended."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax.models.quantizers import base, codebook


def substitute(z: jax.Array, hard: jax.Array, noise: jax.Array) -> jax.Array:
    """z plus noise as long as the quantisation error; all float[..., D]. Differentiable in z and `hard`.

    Where z lies on its codeword the error's gradient is 0. (Plain, it is NaN there: two equal frames have a z of
    0 whatever the weights, and once a dead code has been restarted from such a pair they meet in each batch.)
    """
    squared = jnp.sum(jnp.square(z - hard), axis=-1, keepdims=True)
    error = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
    length = jnp.linalg.norm(noise, axis=-1, keepdims=True)
    return z + (error / length + 1e-12) * noise


def standard_normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(key, shape)


class NSVQ(codebook.Codebook):
    """In training the codeword is z plus noise of the length of the error; at inference the nearest row."""

    def __call__(self, z: jax.Array, train: bool = False) -> base.Quantized:
        z = z.astype(jnp.float32)
        codes = codebook.nearest(z, self.table())
        hard = self.lookup(codes)
        log = self.log(z, hard)
        if not train:
            return base.Quantized(hard, codes, 0.0, log)
        self.observe(z, codes)
        noise = standard_normal(self.make_rng("noise"), z.shape)
        return base.Quantized(substitute(z, hard, noise), codes, 0.0, log)


def official_steps(step: jax.Array) -> jax.Array:
    """Whether the official code replaces unused codes at this step (from 0): bool[]."""
    due = jnp.where(step < 100, step % 10 == 0, jnp.where(step < 1000, step % 100 == 0, step % 500 == 0))
    return due & (step > 0) & (step < 5000)


def replace_official(
    rows: jax.Array, used: jax.Array, num_batches: int, order: jax.Array, noise: jax.Array
) -> jax.Array:
    """The official replacement of unused codes (laq_model/nsvq.py, commit 46aca51), bugs included.

    A code counts as unused below 0.1 * num_batches, whatever the time since the last replacement, and takes
    the row of a used one plus noise of 1e-12, which float32 does not see: an exact duplicate.

    Args:
        rows: float[K, D]. used: int[K], forward calls in which a code appeared. num_batches: batch size.
        order: int[K], a random permutation of the repeated used codes; only its first
            `ceil(unused / used) * used` entries are read, and none when used >= unused.
        noise: float[K, D], standard normal.
    """
    alive = used / num_batches >= 0.1
    num_alive = jnp.sum(alive)
    rank = jnp.cumsum(~alive) - 1  # of an unused code among the unused
    few = num_alive < rows.shape[0] - num_alive
    pick = jnp.where(few, order[rank] % jnp.maximum(num_alive, 1), rank)
    source = jnp.argsort(~alive, stable=True)[pick]
    replaced = jnp.where(alive[:, None], rows, rows[source] + 1e-12 * noise[rank])
    return jnp.where(num_alive == 0, rows + 1e-12 * noise, replaced)


def random_order(key: jax.Array, used: jax.Array, num_batches: int) -> jax.Array:
    """The `order` of `replace_official`: a permutation of as many entries as are read, then padding."""
    num_alive = jnp.sum(used / num_batches >= 0.1)
    num_dead = used.shape[0] - num_alive
    length = -(-num_dead // jnp.maximum(num_alive, 1)) * num_alive
    index = jnp.arange(used.shape[0])
    return jnp.argsort(jnp.where(index < length, jax.random.uniform(key, used.shape), 2.0 + index))


class OfficialNSVQ(nn.Module):
    """NSVQ as published, for the paper's recipe and its checkpoints. Collapses from scratch.

    Official issues 17 and 50: at the start the codebook is ten times further from z than z is wide, and one
    or two codes win all. Counts are of forward calls, not of uses.
    """

    num_codes: int
    dim: int

    def setup(self) -> None:
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), (self.num_codes, self.dim))
        self.used = self.variable(codebook.USAGE, "used", jnp.zeros, (self.num_codes,), jnp.int32)
        self.steps = self.variable(codebook.USAGE, "steps", jnp.zeros, (), jnp.int32)
        self.batch_size = self.variable(codebook.USAGE, "batch_size", jnp.ones, (), jnp.int32)

    def __call__(self, z: jax.Array, train: bool = False) -> base.Quantized:
        z = z.astype(jnp.float32)
        codes = codebook.nearest(z, self.codebook)
        hard = self.lookup(codes)
        if not train:
            return base.Quantized(hard, codes)
        if not self.is_initializing() and self.is_mutable_collection(codebook.USAGE):
            seen = jnp.zeros(self.num_codes, jnp.int32).at[codes.reshape(-1)].set(1)
            self.used.value += seen
            self.steps.value += 1
            self.batch_size.value = jnp.int32(z.shape[0])
        noise = standard_normal(self.make_rng("noise"), z.shape)
        return base.Quantized(substitute(z, hard, noise), codes)

    def lookup(self, codes: jax.Array) -> jax.Array:
        return self.codebook[codes]

    def maintain(self, batches: int = 1) -> None:
        """Replace unused codes at the official steps. Called between two gradients, with params mutable."""
        due = official_steps(self.steps.value // batches - 1)
        keys = jax.random.split(self.make_rng("noise"))
        order = random_order(keys[0], self.used.value, self.batch_size.value)
        noise = jax.random.normal(keys[1], self.codebook.shape)
        new = replace_official(self.codebook, self.used.value, self.batch_size.value, order, noise)
        self.put_variable("params", "codebook", jnp.where(due, new, self.codebook))
        self.used.value = jnp.where(due, 0, self.used.value)
