"""The paper's backbone of the latent action quantizer: a patch transformer over a pair of frames.

Encoder: patches of both frames -> spatial transformer -> temporal transformer -> a small CNN reads
`code_length` vectors off each frame; the pre-quantised latent action is their difference.
Decoder: patches of the first frame, cross-attending to the codewords -> pixels of the second.
"""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import laq_readers, peg_attention
from lapa_jax.models.linear import Linear


class PatchEmbed(nn.Module):
    """Pixels to tokens: norm, linear, norm. A patch is read as (channel, row, column)."""

    width: int
    patch_size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, frame: jax.Array) -> jax.Array:
        """float[B, H, W, 3] -> float[B, P, D]."""
        patch = self.patch_size
        x = einops.rearrange(frame, "b (h p) (w q) c -> b (h w) (c p q)", p=patch, q=patch)
        x = peg_attention.layer_norm("norm_in", self.dtype)(x)
        x = peg_attention.dense(self.width, "project", self.dtype, use_bias=True)(x)
        return peg_attention.layer_norm("norm_out", self.dtype)(x)


class PatchTransformerBackbone(nn.Module):
    """Encoder and decoder of the LAQ as published; the defaults are the published sizes.

    Attributes:
        width: token size, everywhere.
        depth_spatial: layers of the spatial encoder, and of the decoder.
        depth_temporal: layers of the temporal encoder.
        image_size, patch_size: pixels; the first is a multiple of the second.
        code_dim: size of the vector that is quantised.
        code_length: such vectors a transition; 1, 2, 4, 16, 64 or 256. The last three
            want a grid of 16x16, 16x16 and 32x32 patches (rounding allows for 13x13, 15x15 and 31x31).
            The reader "queries" makes any number, of any grid.
        reader: "cnn" as published, or "queries".
        channels: of the frames; 3, or those of feature maps.
        legacy: reproduce the memory layouts of the official code, as its checkpoints need: the
            temporal PEG sees scrambled positions, codewords are mixed, norms exist unused.
        remat: recompute each layer in the backward pass, trading time for memory.
        dtype: of the computation; parameters, `z` and reconstructions are float32.
    """

    width: int = 1024
    depth_spatial: int = 8
    depth_temporal: int = 8
    num_heads: int = 16
    head_dim: int = 64
    image_size: int = 256
    patch_size: int = 32
    code_dim: int = 32
    code_length: int = 4
    reader: str = "cnn"
    channels: int = 3
    legacy: bool = False
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self._check_sizes()
        grid = self.image_size // self.patch_size
        layers = dict(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            legacy=self.legacy,
            remat=self.remat,
            dtype=self.dtype,
        )
        pair, one = (2, grid, grid), (1, grid, grid)
        transformer = peg_attention.Transformer
        self.patch_embed = PatchEmbed(self.width, self.patch_size, self.dtype)
        self.position_bias = peg_attention.PositionBias(self.width, self.num_heads, (grid, grid))
        self.encoder_spatial = transformer(self.depth_spatial, pair, **layers)
        self.encoder_temporal = transformer(self.depth_temporal, pair, temporal=True, **layers)
        if self.reader == "queries":
            sizes = (self.code_dim, self.code_length, self.num_heads, self.head_dim)
            self.code_encoder = laq_readers.QueryReader(*sizes, self.dtype)
        else:
            self.code_encoder = laq_readers.CodeEncoder(self.code_dim, self.code_length, grid, self.dtype)
        linear = dict(dtype=self.dtype, kernel_init=peg_attention.KERNEL_INIT)
        self.project_out = Linear(self.width, **linear)
        self.decoder_spatial = transformer(self.depth_spatial, one, **layers)
        self.to_pixels = Linear(self.channels * self.patch_size**2, **linear)

    def __call__(self, frame: jax.Array, next_frame: jax.Array) -> jax.Array:
        """`next_frame` reconstructed with nothing quantised; touches all parameters (for init)."""
        z, first_patches = self.encode(frame, next_frame)
        return self.decode(first_patches, z)

    def encode(self, frame: jax.Array, next_frame: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The latent action before quantisation, and what the decoder starts from.

        Args:
            frame, next_frame: float[B, H, W, 3] in [0, 1].

        Returns:
            z float32[B, code_length, code_dim] and `embed(frame)`. The official training loss
            sends no gradient through the latter from the decoder; stopping it is up to the caller.
        """
        first_patches = self.embed(frame)
        tokens = self.mix(jnp.stack([first_patches, self.embed(next_frame)], axis=1))
        first, last = jnp.moveaxis(self.code_encoder(tokens).astype(jnp.float32), 1, 0)
        return last - first, first_patches

    def embed(self, frame: jax.Array) -> jax.Array:
        """Patch embeddings of one frame: float[B, H, W, 3] -> float[B, P, width].

        Raises:
            UserError: the frame is not image_size x image_size x 3.
        """
        if frame.shape[1:] != (self.image_size, self.image_size, self.channels):
            raise errors.UserError(
                f"frames are {'x'.join(map(str, frame.shape[1:]))}, the model wants "
                f"{self.image_size}x{self.image_size}x{self.channels}: resize them or set image_size"
            )
        return self.patch_embed(frame)

    def mix(self, patches: jax.Array) -> jax.Array:
        """Tokens of both frames after the two encoders: float[B, 2, P, width], both in and out."""
        tokens = self.encoder_spatial(patches, self.position_bias())
        return self.encoder_temporal(tokens.swapaxes(1, 2)).swapaxes(1, 2)

    def decode(self, first_patches: jax.Array, codewords: jax.Array) -> jax.Array:
        """The second frame, from the first and a latent action.

        Args:
            first_patches: float[B, P, width], from `embed` or `encode`.
            codewords: float[B, code_length, code_dim].

        Returns:
            float32[B, H, W, 3], not clipped.
        """
        if self.legacy:  # dimension d of token n takes flat element d * code_length + n
            codewords = codewords.reshape(-1, self.code_dim, self.code_length).swapaxes(1, 2)
        context = self.project_out(codewords)[:, None]
        tokens = self.decoder_spatial(first_patches[:, None], self.position_bias(), context)
        pixels = self.to_pixels(tokens[:, 0]).astype(jnp.float32)
        patch, rows = self.patch_size, self.image_size // self.patch_size
        pattern = "b (h w) (c p q) -> b (h p) (w q) c"
        return einops.rearrange(pixels, pattern, h=rows, p=patch, q=patch)

    def _check_sizes(self) -> None:
        if self.reader not in ("cnn", "queries"):
            raise errors.UserError(f"no reader {self.reader!r}; choose cnn or queries")
        if self.image_size % self.patch_size:
            raise errors.UserError(
                f"image_size={self.image_size} is no multiple of patch_size={self.patch_size}: "
                "change one of them"
            )
        if self.reader == "cnn":
            laq_readers.check_cnn(self.code_length, self.image_size, self.patch_size)
