"""The latent-action VLM: named vocabularies around one trunk; pretraining and finetuning share it."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import errors, vocab
from lapa_jax.models import image_stem, llama, token_stream
from lapa_jax.models.token_stream import Tokens
from lapa_jax.sharding import constrain_batch

TRUNK_OPTIONS = ("theta", "remat", "rope", "rope_length", "attention")
"""Keys of a config's `model` section that go to the trunk as they are; its key `trunk` may hold all others."""


class LatentActionVLM(nn.Module):
    """Predicts latent action tokens from an instruction and an image (LAPA, section 3.2).

    Any stream of tokens goes through `features` or `logits_of`; `__call__` and `prompt` know the layout that
    training from scratch uses: text, image, a start token, latents.

    Attributes:
        vocabs: size of each vocabulary that has an embedding table, by name.
        heads: vocabularies that have an output head.
        trunk: keyword arguments of `llama.Trunk`.
        image_stem: keyword arguments of `ImageStem`, or None where images come as vision tokens.
        num_image_tokens: image tokens a frame.
        residual_dtype: of what runs along the trunk's residuals; the official training has float32 there.
    """

    vocabs: Mapping[str, int]
    heads: Sequence[str]
    trunk: Any
    num_image_tokens: int
    image_stem: Any = None
    dtype: jnp.dtype = jnp.float32
    residual_dtype: jnp.dtype | None = None

    def setup(self) -> None:
        width = self.trunk["width"]
        init = nn.initializers.normal(width**-0.5)
        self.embed = {
            name: nn.Embed(size, width, embedding_init=init, dtype=self.dtype)
            for name, size in sorted(self.vocabs.items())
        }
        self.body = llama.Trunk(**dict(self.trunk), dtype=self.dtype)
        self.head = {
            name: nn.Dense(self.vocabs[name], use_bias=False, kernel_init=init, dtype=self.dtype)
            for name in sorted(self.heads)
        }
        if self.image_stem is not None:
            self.stem = image_stem.ImageStem(width, **dict(self.image_stem), dtype=self.dtype)

    def __call__(self, text: jax.Array, image: jax.Array, latents: jax.Array) -> dict[str, jax.Array]:
        """Teacher-forced logits for latents int[B, N] -> {"latent": float32[B, N, K]}.

        Args:
            text: int[B, L], padded with PAD_ID. image: uint8[B, H, W, 3], or vision ids int[B, P].
        """
        tokens, seen = self.prompt(text, image)
        if latents.shape[1] > 1:
            tokens = token_stream.concatenate(tokens, Tokens.of(latents[:, :-1], vocab.LATENT))
        hidden = self.features(tokens, seen)[:, -latents.shape[1] :]
        if self.is_initializing():  # create the tables and heads that this stage does not touch
            for table in self.embed.values():
                table(jnp.zeros((1, 1), jnp.int32))
        names = self.heads if self.is_initializing() else ("latent",)
        return {name: self.logits(hidden, name) for name in names}

    def prompt(self, text: jax.Array, image: jax.Array) -> tuple[Tokens, jax.Array | None]:
        """What comes before the first latent token, and what its image tokens stand for (see `features`)."""
        real = text != vocab.PAD_ID
        start = Tokens.of(jnp.full((text.shape[0], 1), vocab.BOS_ID), vocab.TEXT)
        words = Tokens.of(text, vocab.TEXT, real)
        if self.image_stem is None:
            return token_stream.concatenate(words, Tokens.of(image, vocab.VISION), start), None
        seen = self.stem(image, self.embed["text"](text))  # a token for each word, and one more
        places = jnp.broadcast_to(jnp.arange(seen.shape[1]), seen.shape[:2])
        real = jnp.pad(real, ((0, 0), (0, 1)), constant_values=True)
        return token_stream.concatenate(words, Tokens.of(places, vocab.IMAGE, real), start), seen

    def features(self, tokens: Tokens, image: jax.Array | None = None) -> jax.Array:
        """Trunk features of a stream.

        Args:
            image: float[B, P, D], what tokens of the kind IMAGE stand for.

        Returns:
            float[B, T, D]; token t + 1 is predicted from row t.
        """
        x = self._embedded(tokens, image)
        return self.body(x, tokens.positions, tokens.seen)[0]

    def logits_of(self, tokens: Tokens, names: Sequence[str]) -> dict[str, jax.Array]:
        """Logits float32[B, T, V] of those heads at each place of a stream without IMAGE tokens."""
        hidden = self.features(tokens)
        return {name: self.logits(hidden, name) for name in names}

    def logits(self, hidden: jax.Array, name: str = "latent") -> jax.Array:
        """Logits of one head at given features, in float32."""
        return self.head[name](hidden).astype(jnp.float32)

    def prefill(self, tokens: Tokens, image: jax.Array | None, more: int) -> tuple[jax.Array, llama.Cache]:
        """Features float[B, T, D] of a prompt, and a cache with room for `more` tokens after it."""
        cache = self.body.empty_cache(tokens.ids.shape[0], tokens.ids.shape[1] + more)
        return self.body(self._embedded(tokens, image), tokens.positions, tokens.seen, cache, 0)

    def step(
        self, prompt: Tokens, ids: jax.Array, kind: int, nth: Any, cache: llama.Cache
    ) -> tuple[jax.Array, llama.Cache]:
        """The next token's features, once it is known.

        Args:
            ids: int[B], of the vocabulary of that kind.
            nth: int[], how many tokens were generated before this one.
            cache: of `prefill` and the steps since.

        Returns:
            float[B, D] and the new cache.
        """
        length, slots = prompt.ids.shape[1], cache["k"].shape[2]
        token = Tokens.of(ids[:, None], kind)
        last = jnp.take_along_axis(prompt.segments, _last(prompt)[:, None], axis=1)
        seen = jnp.pad(prompt.segments == last, ((0, 0), (0, slots - length)), constant_values=True)
        seen &= jnp.arange(slots) <= length + nth
        positions = jnp.sum(prompt.real, axis=1, keepdims=True) + nth
        x = self._embedded(token, None)
        hidden, cache = self.body(x, positions, seen[:, None, None], cache, length + nth)
        # Unconstrained, XLA (CPU, jax 0.10.2) gave wrong rows when they were stacked on a mesh of three axes.
        return constrain_batch(hidden[:, 0]), cache

    def _embedded(self, tokens: Tokens, image: jax.Array | None) -> jax.Array:
        """float[B, T, D] of the tokens' own tables; padding is zero."""
        x = jnp.zeros((*tokens.ids.shape, self.trunk["width"]), self.dtype)
        for kind, name in enumerate(vocab.NAMES):
            if name in self.vocabs:
                x = _chosen(self.embed[name], tokens, kind, x)
        x = x * self.body.embed_scale
        if image is not None:
            x = _chosen(lambda ids: jnp.take_along_axis(image, ids[..., None], axis=1), tokens, vocab.IMAGE, x)
        return x.astype(self.residual_dtype or self.dtype)


def _chosen(table: Any, tokens: Tokens, kind: int, otherwise: jax.Array) -> jax.Array:
    mine = (tokens.kinds == kind) & tokens.real
    return jnp.where(mine[..., None], table(jnp.where(mine, tokens.ids, 0)).astype(otherwise.dtype), otherwise)


def _last(tokens: Tokens) -> jax.Array:
    """int[B]: place of the last real token of each row."""
    return tokens.ids.shape[1] - 1 - jnp.argmax(tokens.real[:, ::-1], axis=1)


def at_last(hidden: jax.Array, tokens: Tokens) -> jax.Array:
    """float[B, D]: the features that predict what comes after the last real token of each row."""
    return jnp.take_along_axis(hidden, _last(tokens)[:, None, None], axis=1)[:, 0]


def from_config(config: Mapping[str, Any], text_vocab: int) -> LatentActionVLM:
    """The VLM of a config's `model` section; a text vocabulary of 0 rows takes the tokenizer's size.

    Raises:
        UserError: the named size does not exist, `trunk` makes no sense, or the tokenizer has more words than the
            table rows.
    """
    vocabs = dict(config["vocabs"])
    vocabs["text"] = vocabs["text"] or text_vocab
    if text_vocab > vocabs["text"]:
        raise errors.UserError(f"model.vocabs.text={vocabs['text']} is less than the tokenizer's {text_vocab}")
    options = {name: config[name] for name in TRUNK_OPTIONS if name in config}
    options |= dict(config.get("trunk") or {})
    residual = config.get("residual_dtype")
    stem = config["image_stem"]
    return LatentActionVLM(
        vocabs=vocabs,
        heads=tuple(config["heads"]),
        trunk=llama.sizes(config["size"], **options),
        num_image_tokens=config["num_image_tokens"],
        image_stem=None if stem is None else dict(stem),
        dtype=jnp.dtype(config["dtype"]),
        residual_dtype=jnp.dtype(residual) if residual else None,
    )
