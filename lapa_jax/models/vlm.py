"""The latent-action VLM: named vocabularies around one trunk; pretraining and finetuning share it."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import errors, vocab
from lapa_jax.models import laq_conv, llama
from lapa_jax.models.laq import to_unit


class ImageStem(nn.Module):
    """Image tokens for small models: a conv stem that is trained with the trunk and listens to the words.

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


class LatentActionVLM(nn.Module):
    """Predicts latent action tokens from an instruction and an image (LAPA, section 3.2).

    The sequence is: text tokens, image tokens, a start token, latent tokens. Every token has a kind
    (`lapa_jax.vocab`) that names the table its id belongs to.

    Attributes:
        vocabs: size of each vocabulary that has an embedding table, by name.
        heads: vocabularies that have an output head.
        trunk: keyword arguments of `llama.Trunk`.
        image_stem: keyword arguments of `ImageStem`, or None where images come as vision tokens.
        num_image_tokens: image tokens a frame.
    """

    vocabs: Mapping[str, int]
    heads: Sequence[str]
    trunk: Any
    num_image_tokens: int
    image_stem: Any = None
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        width = self.trunk["width"]
        init = nn.initializers.normal(width**-0.5)
        self.embed = {
            name: nn.Embed(size, width, embedding_init=init, dtype=self.dtype)
            for name, size in sorted(self.vocabs.items())
        }
        self.body = llama.Trunk(**dict(self.trunk), dtype=self.dtype)
        self.head = {
            name: nn.Dense(self.vocabs[name], use_bias=False, kernel_init=init)
            for name in sorted(self.heads)
        }
        if self.image_stem is not None:
            self.stem = ImageStem(width=width, **dict(self.image_stem), dtype=self.dtype)

    def __call__(self, text: jax.Array, image: jax.Array, latents: jax.Array) -> dict[str, jax.Array]:
        """Teacher-forced logits for latents int[B, N] -> {"latent": float[B, N, K]}.

        Args:
            text: int[B, L], padded with PAD_ID. image: uint8[B, H, W, 3], or vision ids int[B, P].
        """
        hidden = self.hidden(text, image, latents[:, :-1])
        if self.is_initializing():  # create the tables and heads that this stage does not touch
            for table in self.embed.values():
                table(jnp.zeros((1, 1), jnp.int32))
        names = self.heads if self.is_initializing() else ("latent",)
        return {name: self.logits(hidden, name) for name in names}

    def hidden(self, text: jax.Array, image: jax.Array, previous: jax.Array) -> jax.Array:
        """Trunk features float[B, N, D] at the positions that predict latents 0..N-1.

        Args:
            previous: int[B, N-1], the latent tokens before the last one predicted.
        """
        start = jnp.full((text.shape[0], 1), vocab.BOS_ID, text.dtype)
        words = self.embed["text"](text)
        parts = [words, self._image(image, words), self.embed["text"](start)]
        if previous.shape[1]:
            parts.append(self.embed["latent"](previous))
        x = jnp.concatenate(parts, axis=1)
        seen = self._seen(text, x.shape[1])
        mask = nn.make_causal_mask(seen, dtype=bool) & seen[:, None, None, :]
        mask = mask | jnp.eye(x.shape[1], dtype=bool)  # a padded query still needs one key
        return self.body(x, mask)[:, -1 - previous.shape[1] :]

    def _seen(self, text: jax.Array, length: int) -> jax.Array:
        """bool[B, T]: which tokens may be looked at. Padding, and image tokens of padding, may not."""
        real = text != vocab.PAD_ID
        real = real if self.image_stem is None else jnp.concatenate([real, real], axis=1)
        return jnp.pad(real, ((0, 0), (0, length - real.shape[1])), constant_values=True)

    def logits(self, hidden: jax.Array, name: str = "latent") -> jax.Array:
        """Logits of one head at given features."""
        return self.head[name](hidden).astype(jnp.float32)

    def _image(self, image: jax.Array, words: jax.Array) -> jax.Array:
        return self.embed["vision"](image) if self.image_stem is None else self.stem(image, words)


class ActionHead(nn.Module):
    """A small MLP from the latent action tokens to a chunk of normalised actions.

    Each latent token gives its trunk features and its predicted distribution over codes.
    """

    horizon: int
    action_dim: int
    width: int = 256

    @nn.compact
    def __call__(self, hidden: jax.Array, logits: jax.Array) -> jax.Array:
        """float[B, N, D], float[B, N, K] -> float[B, horizon, action_dim]."""
        x = jnp.concatenate([llama.RMSNorm(name="norm")(hidden), nn.softmax(logits)], axis=-1)
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        x = nn.gelu(nn.Dense(self.width, name="dense_in")(x))
        x = nn.gelu(nn.Dense(self.width, name="dense_mid")(x))
        x = nn.Dense(self.horizon * self.action_dim, name="dense_out")(x)
        return x.reshape(-1, self.horizon, self.action_dim)


class LatentActionPolicy(nn.Module):
    """Stage 3: the VLM plans latent actions, the head turns them into this robot's actions."""

    planner: LatentActionVLM
    code_length: int
    horizon: int
    action_dim: int
    head_width: int = 256

    def setup(self) -> None:
        self.action_head = ActionHead(self.horizon, self.action_dim, self.head_width)

    def __call__(self, text: jax.Array, image: jax.Array) -> jax.Array:
        """int[B, L], uint8[B, H, W, 3] -> normalised actions float[B, horizon, A]."""
        latents = jnp.zeros((text.shape[0], 0), jnp.int32)
        for _ in range(self.code_length):  # greedy, 1 to 4 tokens
            hidden = self.planner.hidden(text, image, latents)
            logits = self.planner.logits(hidden)
            latents = jnp.concatenate([latents, jnp.argmax(logits[:, -1:], axis=-1)], axis=1)
        if self.is_initializing():
            self.planner(text, image, latents)
        return self.action_head(hidden, logits)


def from_config(config: Mapping[str, Any], text_vocab: int) -> LatentActionVLM:
    """The VLM of a config's `model` section; a text vocabulary of 0 rows takes the tokenizer's size.

    Raises:
        UserError: the named size does not exist, or the tokenizer has more words than the table rows.
    """
    if config["size"] not in llama.SIZES:
        raise errors.UserError(f"no trunk size {config['size']!r}; choose one of {', '.join(llama.SIZES)}")
    vocabs = dict(config["vocabs"])
    vocabs["text"] = vocabs["text"] or text_vocab
    if text_vocab > vocabs["text"]:
        raise errors.UserError(f"model.vocabs.text={vocabs['text']} is less than the tokenizer's {text_vocab}")
    trunk = {**llama.SIZES[config["size"]], "theta": config["theta"], "remat": config["remat"]}
    stem = config["image_stem"]
    return LatentActionVLM(
        vocabs=vocabs, heads=tuple(config["heads"]), trunk=trunk, dtype=jnp.dtype(config["dtype"]),
        num_image_tokens=config["num_image_tokens"], image_stem=None if stem is None else dict(stem),
    )
