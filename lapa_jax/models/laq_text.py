"""What an instruction says, as tokens that a LAQ's decoder reads in the place of codewords."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class TextTokens(nn.Module):
    """Words to `length` vectors: embeddings with their places, mixed by an MLP, averaged over the words.

    Attributes:
        vocab: words; 0 pads.
        length, dim: vectors that come out, and their size.
    """

    vocab: int
    length: int
    dim: int
    width: int = 64

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """int32[B, L] -> float32[B, length, dim]."""
        x = nn.Embed(self.vocab, self.width, name="embed_text")(text)
        x = x + nn.Embed(text.shape[1], self.width, name="embed_place")(jnp.arange(text.shape[1]))
        x = nn.gelu(nn.Dense(4 * self.width, name="dense_in")(x))
        words = (text > 0)[..., None]
        mean = jnp.sum(x * words, axis=1) / jnp.maximum(jnp.sum(words, axis=1), 1)
        return nn.Dense(self.length * self.dim, name="dense_out")(mean).reshape(-1, self.length, self.dim)
