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
    """uint8[B, H, W, 3] -> float[B, P, width]: a small conv stem trained with the trunk, one token a patch.

    Stands where the paper has frozen VQGAN tokens; `patch_size` pixels a token, row-major. Folds 4 px
    into channels, then halves the grid until a cell is a patch.
    """

    width: int
    patch_size: int
    channels: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        x = laq_conv.space_to_depth(to_unit(image) - 0.5, 4).astype(self.dtype)
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_stem")(x)
        channels, cell = self.channels, 4
        while cell < self.patch_size:
            x = laq_conv.ConvBlock(channels, self.dtype, name=f"block_{cell}")(x)
            channels, cell = 2 * channels, 2 * cell
            x = nn.Conv(channels, (3, 3), strides=2, dtype=self.dtype, name=f"conv_down_{cell}")(nn.gelu(x))
        x = nn.Dense(self.width, dtype=self.dtype, name="dense_out")(nn.gelu(x))
        tokens = x.reshape(x.shape[0], -1, self.width)
        init = nn.initializers.normal(0.02)
        place = self.param("place_embedding", init, tokens.shape[1:])
        return tokens + place.astype(tokens.dtype)


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
        init = nn.initializers.normal(0.02)
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
        parts = [self.embed["text"](text), self._image(image), self.embed["text"](start)]
        if previous.shape[1]:
            parts.append(self.embed["latent"](previous))
        x = jnp.concatenate(parts, axis=1)
        seen = jnp.pad(text != vocab.PAD_ID, ((0, 0), (0, x.shape[1] - text.shape[1])), constant_values=True)
        mask = nn.make_causal_mask(seen, dtype=bool) & seen[:, None, None, :]
        mask = mask | jnp.eye(x.shape[1], dtype=bool)  # a padded query still needs one key
        return self.body(x, mask)[:, -1 - previous.shape[1] :]

    def logits(self, hidden: jax.Array, name: str = "latent") -> jax.Array:
        """Logits of one head at given features."""
        return self.head[name](hidden).astype(jnp.float32)

    def _image(self, image: jax.Array) -> jax.Array:
        return self.embed["vision"](image) if self.image_stem is None else self.stem(image)


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
