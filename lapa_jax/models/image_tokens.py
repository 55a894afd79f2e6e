"""Frames as tokens and back, through a trained tokenizer."""

from typing import Any

import flax.struct
import jax

from lapa_jax.models import vqgan


@flax.struct.dataclass
class Tokenizer:
    """A trained tokenizer: a pytree, so that jitted functions take it as an argument.

    Attributes:
        variables: all that the model applies.
        model: its sizes.
        image_size: pixels of the frames it was trained on.
    """

    variables: Any
    model: vqgan.VQGAN = flax.struct.field(pytree_node=False)
    image_size: int = flax.struct.field(pytree_node=False)

    @property
    def num_codes(self) -> int:
        """Ids are below this."""
        return self.model.num_codes

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes of a frame of `image_size`."""
        return (self.image_size // self.model.factor,) * 2


@jax.jit
def encode_frames(tokenizer: Tokenizer, frames: jax.Array) -> jax.Array:
    """Ids int32[B, h * w] of frames uint8[B, H, W, 3], row by row.

    Raises:
        UserError: height or width is no multiple of the pixels a code is wide.
    """
    ids = tokenizer.model.apply(tokenizer.variables, frames, method="encode").ids
    return ids.reshape(len(frames), -1)


@jax.jit
def decode_tokens(tokenizer: Tokenizer, ids: jax.Array) -> jax.Array:
    """Frames uint8[B, H, W, 3] of ids int[B, h * w], as many as a frame of `image_size` has."""
    image = tokenizer.model.apply(tokenizer.variables, ids.reshape(-1, *tokenizer.grid), method="decode")
    return vqgan.to_uint8(image)
