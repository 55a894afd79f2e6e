"""Image tokens for small models, trained with the trunk."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax.models import laq_conv, llama
from lapa_jax.models.laq import to_unit


class ImageStem(nn.Module):
    """A conv stem that listens to the words.

    Stands where the paper has frozen VQGAN tokens. One token for every word of the instruction, which
    looks for the word in the image (cross-attention whose values are places and features), and one
    token with the soft-argmax positions of `keypoints` channels, for what no word names.

    Attention over places starts SHARP: spread evenly it would only see the table, and nothing could be
    learned from where things are until it had narrowed down. Sharp and random it picks out some object
    from the first step on.
    """

    width: int
    channels: int = 32
    num_heads: int = 4
    keypoints: int = 32
    sharpness: float = 6.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, words: jax.Array) -> jax.Array:
        """uint8[B, H, W, 3], float[B, L, width] -> float[B, L + 1, width]."""
        x = laq_conv.space_to_depth(to_unit(image) - 0.5, 4).astype(self.dtype)
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_stem")(x)
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_mid")(nn.gelu(x))
        x = nn.GroupNorm(num_groups=4, name="norm", dtype=self.dtype)(x)
        tokens = jnp.concatenate([self._found(x, words), self._points(x)[:, None]], axis=1)
        place = self.param("place_embedding", nn.initializers.normal(0.02), tokens.shape[1:])
        return tokens + place.astype(tokens.dtype)

    def _found(self, x: jax.Array, words: jax.Array) -> jax.Array:
        """Where each word is in the image, added to the word: float[B, L, width]."""
        heads = (self.num_heads, self.channels)
        words_in = llama.RMSNorm(name="norm_words")(words)
        query = nn.DenseGeneral(heads, dtype=self.dtype, name="dense_query")(words_in)
        key = nn.DenseGeneral(heads, dtype=self.dtype, name="dense_key")(x)
        logits = jnp.einsum("blnd,bhwnd->bhwln", query, key) / jnp.sqrt(self.channels)
        seen = self._places(logits.reshape(*logits.shape[:3], -1)).reshape(*words.shape[:2], -1)
        return words + nn.Dense(self.width, dtype=self.dtype, name="dense_found")(seen)

    def _points(self, x: jax.Array) -> jax.Array:
        """What no word names (the effector, say): float[B, width]."""
        logits = nn.Conv(self.keypoints, (1, 1), dtype=self.dtype, name="conv_points")(x)
        seen = self._places(logits).reshape(x.shape[0], -1)
        hidden = nn.gelu(nn.Dense(2 * self.width, dtype=self.dtype, name="dense_points_in")(seen))
        return nn.Dense(self.width, dtype=self.dtype, name="dense_points")(hidden)

    def _places(self, logits: jax.Array) -> jax.Array:
        """float[B, H, W, K] -> float[B, K, 3]: row, column, and how clearly it stands out."""
        logits = self.sharpness * logits.astype(jnp.float32)
        peak = jnp.max(logits, axis=(1, 2)) - jnp.mean(logits, axis=(1, 2))
        where = 2.0 * laq_conv.expected_position(logits)
        return jnp.concatenate([where, peak[..., None] / (4.0 * self.sharpness)], axis=-1).astype(self.dtype)
