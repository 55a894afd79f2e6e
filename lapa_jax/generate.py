"""Tokens of one vocabulary after a prompt: the prompt is read once, then each token takes one cached step."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import errors, vocab
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits.

    Attributes:
        temperature: 0 takes the likeliest token, always.
        top_k: only the k likeliest may be drawn (with those that tie with the last of them).
        top_p: only the fewest likeliest that hold this probability together; 1 is all.

    Raises:
        UserError: a value out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or (self.top_k is not None and self.top_k < 1):
            raise errors.UserError(f"{self}: temperature is 0 or more, top_k 1 or more, top_p in (0, 1]")


GREEDY = Sampling()


@flax.struct.dataclass
class Generated:
    """
    Attributes:
        ids: int[B, N].
        logits: float32[B, N, V] that each was chosen from.
        hidden: float[B, N, D], the trunk's features behind them.
    """

    ids: jax.Array
    logits: jax.Array
    hidden: jax.Array


def choose(logits: jax.Array, sampling: Sampling, key: jax.Array | None) -> jax.Array:
    """int[B] from logits float[B, V]; no key is needed to take the likeliest."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    return jnp.argmax(kept(logits / sampling.temperature, sampling) + jax.random.gumbel(key, logits.shape), axis=-1)


def kept(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """float[B, V] with -inf where `top_k` or `top_p` forbid."""
    falling, least = -jnp.sort(-logits, axis=-1), -jnp.inf
    if sampling.top_k is not None:
        least = falling[..., min(sampling.top_k, logits.shape[-1]) - 1, None]
        falling = jnp.where(falling >= least, falling, -jnp.inf)
    if sampling.top_p < 1:
        share = jax.nn.softmax(falling, axis=-1)
        enough = jnp.cumsum(share, axis=-1) - share >= sampling.top_p  # those before it hold it already
        least = jnp.maximum(least, jnp.min(jnp.where(enough, jnp.inf, falling), axis=-1, keepdims=True))
    return jnp.where(logits >= least, logits, -jnp.inf)


def generate(
    model: vlm.LatentActionVLM,
    variables: Any,
    prompt: Tokens,
    image: jax.Array | None = None,
    text: jax.Array | None = None,
    *,
    name: str = "latent",
    count: int,
    sampling: Sampling = GREEDY,
    key: jax.Array | None = None,
    allowed: jax.Array | None = None,
) -> Generated:
    """`count` tokens of the vocabulary `name`, and of no other; to be called under jit.

    All ids are tokens: none ends the sequence. (The official sampler takes latent 2 for an end of text.)

    Args:
        prompt: rows may be padded, on either side.
        image, text: of the prompt's images, as `vlm.LatentActionVLM.see` takes them.
        allowed: bool[count, V], ids that may occur at each place; all by default.

    Raises:
        UserError: the model has no head or no table of that name, or no key to draw with.
    """
    prompt, seen = model.apply(variables, prompt, image, text, method="see")
    options = dict(name=name, count=count, sampling=sampling, key=key, allowed=allowed)
    return continued(model, variables, prompt, seen, **options)


def continued(
    model: vlm.LatentActionVLM,
    variables: Any,
    prompt: Tokens,
    seen: jax.Array | None,
    *,
    name: str = "latent",
    count: int,
    sampling: Sampling = GREEDY,
    key: jax.Array | None = None,
    allowed: jax.Array | None = None,
) -> Generated:
    """`generate` after a prompt whose images have been seen already (`vlm.LatentActionVLM.see`)."""
    _check(model, name, count, sampling, key)
    kind, key = vocab.NAMES.index(name), jax.random.key(0) if key is None else key
    hidden, cache = model.apply(variables, prompt, seen, count - 1, method="prefill")

    def pick(hidden: jax.Array, nth: Any) -> Generated:
        logits = model.apply(variables, hidden, name, method="logits")
        if allowed is not None:
            logits = jnp.where(allowed[nth], logits, -jnp.inf)
        return Generated(choose(logits, sampling, jax.random.fold_in(key, nth)), logits, hidden)

    def step(carry: Any, nth: jax.Array) -> Any:
        ids, cache = carry
        hidden, cache = model.apply(variables, prompt, ids, kind, nth - 1, cache, method="step")
        one = pick(hidden, nth)
        return (one.ids, cache), one

    first = pick(vlm.at_last(hidden, prompt), 0)
    _, more = jax.lax.scan(step, (first.ids, cache), jnp.arange(1, count))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[:, None], jnp.moveaxis(b, 0, 1)], axis=1), first, more)


def _check(model: vlm.LatentActionVLM, name: str, count: int, sampling: Sampling, key: Any) -> None:
    if name not in model.heads or name not in model.vocabs:
        raise errors.UserError(f"no vocabulary {name!r} to generate: the model has {', '.join(model.heads)}")
    if count < 1:
        raise errors.UserError(f"count={count}: generate one token or more")
    if sampling.temperature and key is None:
        raise errors.UserError("sampling with a temperature needs a key")
