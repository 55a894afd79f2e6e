"""The latents that a VLM plans before a head acts, each the likeliest after those before it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import generate, vocab
from lapa_jax.models import token_stream, vlm
from lapa_jax.models.token_stream import Tokens


@flax.struct.dataclass
class Plan:
    """
    Attributes:
        ids: int32[B, N].
        hidden: float[B, N, D], the features from which each was predicted.
        logits: float32[B, N, K].
        before: float[B, T, D], features of the prompt.
    """

    ids: jax.Array
    hidden: jax.Array
    logits: jax.Array
    before: jax.Array


def ids(model: vlm.LatentActionVLM, params: Any, prompt: Tokens, seen: jax.Array | None, count: int) -> jax.Array:
    """int32[B, count]; nothing is learned through them."""
    found = generate.continued(model, {"params": params}, prompt, seen, count=count)
    return jax.lax.stop_gradient(found.ids)


def plan(model: vlm.LatentActionVLM, params: Any, prompt: Tokens, seen: jax.Array | None, count: int) -> Plan:
    """Latents, and features that gradients flow through: those of the whole sequence, read once more."""
    variables, tokens = {"params": params}, prompt
    chosen = jnp.zeros((len(prompt.ids), 0), jnp.int32)
    if count > 1:
        chosen = ids(model, params, prompt, seen, count - 1)
        tokens = token_stream.concatenate(prompt, Tokens.of(chosen, vocab.LATENT))
    hidden = model.apply(variables, tokens, seen, method="features")
    places = hidden[:, -count:]
    logits = model.apply(variables, places, method="logits")
    length = prompt.ids.shape[1]
    last = jnp.argmax(logits[:, -1:], axis=-1).astype(jnp.int32)
    return Plan(jnp.concatenate([chosen, last], axis=1), places, logits, hidden[:, :length])
