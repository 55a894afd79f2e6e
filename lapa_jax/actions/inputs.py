"""What a head is given: a prompt whose images have been seen, and numbers that are known beside them."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import trained, vocab
from lapa_jax.models import image_encoders, token_stream
from lapa_jax.models.token_stream import Tokens


@flax.struct.dataclass
class Inputs:
    """
    Attributes:
        prompt: padded on the left.
        seen: float[B, M, D], what tokens of the kind IMAGE stand for; None where there are none.
        side: float32[B, S]: normalised proprioception, then the last latents, one-hot; S may be 0.
    """

    prompt: Tokens
    seen: jax.Array | None
    side: jax.Array

    def followed_by(self, rows: jax.Array) -> tuple[Tokens, jax.Array | None]:
        """The prompt, and what it sees, with tokens after it that are vectors of their own: float[B, R, D]."""
        count = rows.shape[1]
        if not count:
            return self.prompt, self.seen
        before = 0 if self.seen is None else self.seen.shape[1]
        ids = jnp.broadcast_to(before + jnp.arange(count), rows.shape[:2])
        seen = rows if self.seen is None else jnp.concatenate([self.seen, rows.astype(self.seen.dtype)], axis=1)
        return token_stream.concatenate(self.prompt, Tokens.of(ids, vocab.IMAGE)), seen


def look(
    planner: trained.Planner, variables: Any, batch: Mapping[str, jax.Array], image: jax.Array
) -> tuple[Tokens, jax.Array | None]:
    """The prompts of a batch with images: uint8[B, H, W, 3], or several cameras' uint8[B, E, H, W, 3]."""
    image = image[:, None] if image.ndim == 4 else image
    encoded = image_encoders.looked(planner.encoder, variables, image)
    text = batch.get("text")
    if text is not None:
        text = jnp.broadcast_to(text[:, None], (len(text), image.shape[1], text.shape[-1]))
    params = {"params": variables["params"]["planner"]}
    return planner.model.apply(params, trained.tokens_of(batch), encoded, text, method="see")
