"""The latent-action VLM: named vocabularies around one trunk; pretraining and finetuning share it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import errors, vocab
from lapa_jax.models import image_stem, llama, projector, token_stream
from lapa_jax.models.linear import Linear
from lapa_jax.models.token_stream import Tokens
from lapa_jax.sharding import constrain, constrain_batch, constrain_tokens

TRUNK_OPTIONS = ("theta", "remat", "rope", "rope_length", "attention", "lora")
"""Keys of a config's `model` section that go to the trunk as they are; its key `trunk` may hold all others."""

IMAGES: dict[str, tuple[tuple[str, ...], Any]] = {
    "tokens": (("B", "E", "P"), jnp.integer),
    "features": (("B", "E", "P", "F"), jnp.floating),
    "stem": (("B", "E", "H", "W", "3"), jnp.uint8),
}
"""How images may come, E of them a row: as ids of an image tokenizer, as features of a frozen encoder, or as pixels
for a stem that is trained with the trunk. Axes and kind of number of each."""


class LatentActionVLM(nn.Module):
    """Predicts tokens of some vocabularies from a stream of tokens and images (LAPA, section 3.2).

    Attributes:
        vocabs: size of each vocabulary that has an embedding table, by name.
        heads: vocabularies that have an output head.
        trunk: keyword arguments of `llama.Trunk`.
        image: a name of IMAGES, how images come.
        image_stem: keyword arguments of `ImageStem`, for image="stem".
        projector: keyword arguments of `Projector`, for image="features".
        residual_dtype: of what runs along the trunk's residuals; the official training has float32 there.
    """

    vocabs: Mapping[str, int]
    heads: Sequence[str]
    trunk: Any
    image: str = "tokens"
    image_stem: Any = flax.struct.field(default_factory=dict)
    projector: Any = flax.struct.field(default_factory=dict)
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
            name: Linear(self.vocabs[name], use_bias=False, kernel_init=init, dtype=self.dtype)
            for name in sorted(self.heads)
        }
        if self.image == "stem":
            self.stem = image_stem.ImageStem(width, **dict(self.image_stem), dtype=self.dtype)
        elif self.image == "features":
            self.project = projector.Projector(width, **dict(self.projector), dtype=self.dtype)

    def __call__(self, tokens: Tokens, image: jax.Array | None = None, text: jax.Array | None = None) -> jax.Array:
        """Trunk features float[B, T, D] of a stream with its images; arguments as of `see`."""
        tokens, seen = self.see(tokens, image, text)
        hidden = self.features(tokens, seen)
        if self.is_initializing():  # create the tables and heads that these tokens do not touch
            for table in self.embed.values():
                table(jnp.zeros((1, 1), jnp.int32))
            for name in self.heads:
                self.logits(hidden, name)
        return hidden

    def see(
        self, tokens: Tokens, image: jax.Array | None, text: jax.Array | None = None
    ) -> tuple[Tokens, jax.Array | None]:
        """A stream whose tokens of the kind IMAGE have got their meaning, and what they stand for (see `features`).

        Args:
            tokens: ids of the kind IMAGE are rows of what the images of their row have, one image after the other.
            image: of E images a row, by `self.image`: int[B, E, P], ids of an image tokenizer; float[B, E, P, F],
                features of a frozen encoder; or uint8[B, E, H, W, 3]. None where there are none.
            text: int[B, E, L], the instruction of each image, for image="stem".

        Raises:
            UserError: images of another form.
        """
        if image is None:
            return tokens, None
        form, kind = IMAGES[self.image]
        if len(form) != image.ndim or not jnp.issubdtype(image.dtype, kind):
            wanted = f"{kind.__name__}[{', '.join(form)}]"
            raise errors.UserError(f"model.image={self.image} takes {wanted}, not {image.dtype}{list(image.shape)}")
        if self.image == "tokens":
            return tokens.filled(vocab.IMAGE, image.reshape(len(image), -1), vocab.VISION), None
        if self.image == "features":
            seen = self.project(image)
        else:
            words = self.embed["text"](text.reshape(-1, text.shape[-1]))
            seen = self.stem(image.reshape(-1, *image.shape[2:]), words)
        return tokens, seen.reshape(len(image), -1, self.trunk["width"])

    def features(self, tokens: Tokens, image: jax.Array | None = None) -> jax.Array:
        """Trunk features of a stream.

        Args:
            image: float[B, M, D], what tokens of the kind IMAGE stand for.

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
        length, slots = prompt.ids.shape[1], jax.tree.leaves(cache)[0].shape[-3]
        token = Tokens.of(ids[:, None], kind)
        last = jnp.take_along_axis(prompt.segments, _last(prompt)[:, None], axis=1)
        seen = jnp.pad(prompt.segments == last, ((0, 0), (0, slots - length)), constant_values=True)
        seen &= jnp.arange(slots) <= length + nth
        positions = jnp.take_along_axis(prompt.positions, _last(prompt)[:, None], axis=1) + 1 + nth
        x = self._embedded(token, None)
        hidden, cache = self.body(x, positions, seen[:, None, None], cache, length + nth)
        # Unconstrained, XLA (CPU, jax 0.10.2) gave wrong rows when they were stacked on a mesh of three axes.
        return constrain_batch(hidden[:, 0]), cache

    def _embedded(self, tokens: Tokens, image: jax.Array | None) -> jax.Array:
        """float[B, T, D] of the tokens' own tables; padding is zero."""
        x = jnp.zeros((*tokens.ids.shape, self.trunk["width"]), self.dtype)
        for kind, name in enumerate(vocab.NAMES):
            if name in self.vocabs:
                x = _chosen(functools.partial(self._rows, name), tokens, kind, x)
        x = x * self.body.embed_scale
        if image is not None:
            x = _chosen(lambda ids: token_stream.rows_at(image, ids), tokens, vocab.IMAGE, x)
        return constrain_tokens(x.astype(self.residual_dtype or self.dtype))

    def _rows(self, name: str, ids: jax.Array) -> jax.Array:
        """float[B, T, D] of a table that devices have in parts.

        Where there are more ids than rows the table is put together on each device. XLA would rather have every
        device look up its part for the whole batch, and add up results that grow with the number of devices.
        """
        table = self.embed[name]
        if ids.size < table.num_embeddings:
            return table(ids)
        whole = constrain(table.embedding.astype(self.dtype), None, None)
        return constrain_tokens(jnp.take(whole, ids, axis=0))


def _chosen(table: Callable[[jax.Array], jax.Array], tokens: Tokens, kind: int, otherwise: jax.Array) -> jax.Array:
    mine = (tokens.kinds == kind) & tokens.real
    return jnp.where(mine[..., None], table(jnp.where(mine, tokens.ids, 0)).astype(otherwise.dtype), otherwise)


def _last(tokens: Tokens) -> jax.Array:
    """int[B]: place of the last real token of each row."""
    return tokens.ids.shape[1] - 1 - jnp.argmax(tokens.real[:, ::-1], axis=1)


def at_last(hidden: jax.Array, tokens: Tokens) -> jax.Array:
    """float[B, D]: the features that predict what comes after the last real token of each row."""
    return jnp.take_along_axis(hidden, _last(tokens)[:, None, None], axis=1)[:, 0]


def layers_apart(model: LatentActionVLM, params: Mapping[str, Any]) -> tuple[LatentActionVLM, dict[str, Any]]:
    """The same network with each layer's parameters apart, for generation; see `llama.layers_apart`."""
    apart = model.clone(trunk={**model.trunk, "apart": True})
    return apart, {**params, "body": llama.layers_apart(params["body"])}


def from_config(config: Mapping[str, Any], text_vocab: int) -> LatentActionVLM:
    """The VLM of a config's `model` section.

    A text vocabulary of 0 rows takes the tokenizer's size; others of 0 rows are left out.

    Raises:
        UserError: the named size does not exist, `trunk` makes no sense, images come in no known way or without a
            table for them, or the tokenizer has more words than the table rows.
    """
    vocabs = {name: rows for name, rows in config["vocabs"].items() if rows}
    vocabs.setdefault("text", text_vocab)
    if text_vocab > vocabs["text"]:
        raise errors.UserError(f"model.vocabs.text={vocabs['text']} is less than the tokenizer's {text_vocab}")
    if config["image"] not in IMAGES:
        raise errors.UserError(f"no model.image {config['image']!r}: choose one of {', '.join(IMAGES)}")
    if config["image"] == "tokens" and not vocabs.get("vision"):
        raise errors.UserError("model.image=tokens needs a table for them: set --config.model.vocabs.vision")
    if missing := set(config["heads"]) - vocabs.keys():
        raise errors.UserError(f"model.heads has {min(missing)!r}, for which model.vocabs has no table")
    options = {name: config[name] for name in TRUNK_OPTIONS if name in config}
    options |= dict(config.get("trunk") or {})
    residual = config.get("residual_dtype")
    return LatentActionVLM(
        vocabs=vocabs,
        heads=tuple(config["heads"]),
        trunk=llama.sizes(config["size"], **options),
        image=config["image"],
        image_stem=dict(config.get("image_stem") or {}),
        projector=dict(config.get("projector") or {}),
        dtype=jnp.dtype(config["dtype"]),
        residual_dtype=jnp.dtype(residual) if residual else None,
    )
