"""How the LAQ reads the vectors that it quantises off the tokens of a frame: a CNN as published, or queries."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import peg_attention

CODE_GRIDS = {1: (1, 1), 2: (2, 1), 4: (2, 2), 16: (4, 4), 64: (8, 8), 256: (16, 16)}
"""code_length -> rows and columns that the CNN leaves; codes are in row-major order."""

HALVINGS = {16: 2, 64: 1, 256: 1}
"""code_length -> convolutions of the CNN, each of which halves the grid; other lengths: see `convolutions`."""


def convolutions(code_length: int, grid: int) -> list[dict[str, Any]]:
    """Kernel, stride and padding of each convolution that turns grid x grid tokens into codes.

    For 1, 2 and 4 codes the first halves the grid and the kernel of the second covers what is left over.
    """
    halve = dict(kernel_size=(3, 3), strides=2, padding=1)
    if code_length in HALVINGS:
        return [halve] * HALVINGS[code_length]
    left = (grid + 1) // 2
    rows, columns = CODE_GRIDS[code_length]
    return [halve, dict(kernel_size=(left + 1 - rows, left + 1 - columns), padding="VALID")]


class CodeEncoder(nn.Module):
    """Tokens of one frame to `code_length` vectors: a narrow projection and one or two convolutions."""

    code_dim: int
    code_length: int
    grid: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float[..., P, D] -> float[..., code_length, code_dim]."""
        conv = dict(dtype=self.dtype, kernel_init=peg_attention.KERNEL_INIT)
        x = peg_attention.dense(self.code_dim, "project_in", self.dtype, use_bias=True)(x)
        x = x.reshape(*x.shape[:-2], self.grid, self.grid, self.code_dim)
        first, *rest = convolutions(self.code_length, self.grid)
        x = nn.Conv(self.code_dim, name="conv_in", **first, **conv)(x)
        for form in rest:
            x = nn.Conv(self.code_dim, name="conv_out", **form, **conv)(nn.relu(x))
        return x.reshape(*x.shape[:-3], self.code_length, self.code_dim)


class QueryReader(nn.Module):
    """Tokens of one frame to any number of vectors: learned queries look at all tokens (Jaegle et al. 2021)."""

    code_dim: int
    code_length: int
    num_heads: int
    head_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float[..., P, D] -> float[..., code_length, code_dim]."""
        queries = self.param("query_embedding", nn.initializers.normal(1.0), (self.code_length, x.shape[-1]))
        queries = jnp.broadcast_to(queries.astype(self.dtype), (*x.shape[:-2], *queries.shape))
        heads = dict(num_heads=self.num_heads, head_dim=self.head_dim, dtype=self.dtype)
        x = queries + peg_attention.Attention(**heads, name="cross_attention")(queries, x)
        x = x + peg_attention.FeedForward(self.dtype, name="feed_forward")(x)
        return peg_attention.dense(self.code_dim, "project_in", self.dtype, use_bias=True)(x)


def check_cnn(code_length: int, image_size: int, patch_size: int) -> None:
    """
    Raises:
        UserError: the CNN cannot read that many codes off an image of that many patches.
    """
    grid = image_size // patch_size
    if code_length not in CODE_GRIDS:
        raise errors.UserError(
            f"code_length={code_length}: the cnn reader makes 1, 2, 4, 16, 64 or 256 codes; for others "
            "set model.backbone_args.reader=queries"
        )
    if grid < 3:
        raise errors.UserError(
            f"patch_size={patch_size} leaves a grid below 3x3 at image_size="
            f"{image_size}: use smaller patches"
        )
    factor = 2 ** HALVINGS.get(code_length, 0)
    side = CODE_GRIDS[code_length][0] * factor
    if factor > 1 and not side - factor < grid <= side:
        raise errors.UserError(
            f"code_length={code_length} wants {side}x{side} patches, image_size={image_size} and "
            f"patch_size={patch_size} make {grid}x{grid}: change one of the three"
        )
