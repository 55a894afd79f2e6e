"""A small convolutional backbone for the LAQ: sees sub-patch motion, cheap enough for a laptop CPU.

The encoder looks at both frames at once; the decoder starts from the first frame and is told what to
change by the codewords (feature-wise scale and shift in each block).
"""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import errors


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """float[B, H, W, C] -> float[B, H/p, W/p, p*p*C]."""
    return einops.rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=patch, q=patch)


def depth_to_space(x: jax.Array, patch: int) -> jax.Array:
    """Inverse of `space_to_depth`."""
    return einops.rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=patch, q=patch)


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions; `condition` float[B, D] scales and shifts its features."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        y = nn.GroupNorm(num_groups=4, name="norm", dtype=self.dtype)(x)
        if condition is not None:
            film = nn.Dense(2 * self.width, name="film", dtype=self.dtype)(condition)
            scale, shift = jnp.split(film[:, None, None], 2, axis=-1)
            y = y * (1.0 + scale) + shift
        y = nn.Conv(self.width, (3, 3), name="conv_in", dtype=self.dtype)(nn.gelu(y))
        y = nn.Conv(self.width, (3, 3), name="conv_out", dtype=self.dtype)(nn.gelu(y))
        return x + y


def expected_position(logits: jax.Array) -> jax.Array:
    """Spatial soft-argmax: float[B, H, W, K] -> float[B, K, 2], (row, column) in [-1, 1] per channel."""
    _, height, width, _ = logits.shape
    weight = jax.nn.softmax(einops.rearrange(logits, "b h w k -> b k (h w)"), axis=-1)
    rows, columns = jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width)
    grid = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return weight @ grid


class ConvBackbone(nn.Module):
    """Conv encoder and decoder of the LAQ.

    The encoder may only say HOW things moved: z is a linear map of the displacements of learned
    keypoints (spatial soft-argmax, Finn et al. 2016), so the quantiser's cells are convex regions of
    motion. Freer encoders rebuilt the next frame as well or better, but with codes whose meaning
    depends on the scene (docs/results/laq.md).

    Attributes:
        width: channels at `patch_size` resolution; twice that one level below.
        depth: residual blocks per level.
        code_length, code_dim: tokens a transition and size of the vector that is quantised.
        patch_size: pixels folded into channels by the stem.
        keypoints: points that are tracked from one frame to the other.
        channels: of the frames; 3, or those of feature maps.
        remat: recompute each block in the backward pass.
        dtype: of the computation; parameters, z and reconstructions are float32.
    """

    width: int = 32
    depth: int = 1
    code_length: int = 1
    code_dim: int = 3
    patch_size: int = 4
    keypoints: int = 16
    channels: int = 3
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        block = nn.remat(ConvBlock) if self.remat else ConvBlock
        self.encoder_conv_stem = nn.Conv(self.width, (3, 3), dtype=self.dtype)
        self.encoder_conv_mid = nn.Conv(self.width, (3, 3), dtype=self.dtype)
        self.encoder_conv_keypoints = nn.Conv(self.keypoints, (1, 1))
        self.encoder_dense_code = nn.Dense(self.code_length * self.code_dim, use_bias=False)
        self.decoder_conv_stem = nn.Conv(self.width, (1, 1), dtype=self.dtype)
        self.decoder_dense_code = nn.Dense(2 * self.width, dtype=self.dtype)
        self.decoder_fine = [block(self.width, self.dtype) for _ in range(self.depth)]
        self.decoder_conv_down = nn.Conv(2 * self.width, (3, 3), strides=2, dtype=self.dtype)
        self.decoder_coarse = [block(2 * self.width, self.dtype) for _ in range(self.depth)]
        self.decoder_conv_up = nn.Conv(4 * self.width, (1, 1), dtype=self.dtype)
        self.decoder_out = [block(self.width, self.dtype) for _ in range(self.depth)]
        self.decoder_conv_pixels = nn.Conv(
            self.channels * self.patch_size**2, (1, 1), kernel_init=nn.initializers.normal(1e-3)
        )

    def encode(self, frame: jax.Array, next_frame: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> (z float[B, code_length, code_dim], what the decoder starts from: frame itself).

        Raises:
            UserError: a side of the frame is no multiple of 2 * patch_size, or it has other channels.
        """
        self._check(frame)
        change = next_frame - frame
        before, after = self._track(frame, -change), self._track(next_frame, change)
        moved = (after - before).reshape(frame.shape[0], -1)
        return self.encoder_dense_code(moved).reshape(-1, self.code_length, self.code_dim), frame

    def _check(self, frame: jax.Array) -> None:
        *sides, channels = frame.shape[1:]
        if any(side % (2 * self.patch_size) for side in sides) or channels != self.channels:
            raise errors.UserError(
                f"frames are {'x'.join(map(str, frame.shape[1:]))} and the conv backbone wants multiples of "
                f"{2 * self.patch_size} (twice its patch_size) x{self.channels}: change data.image_size"
            )

    def _track(self, frame: jax.Array, arrived: jax.Array) -> jax.Array:
        """Keypoints float[B, K, 2] of a frame, given what it has and the other frame has not."""
        x = space_to_depth(jnp.concatenate([frame - 0.5, arrived], axis=-1), self.patch_size)
        x = nn.gelu(self.encoder_conv_mid(nn.gelu(self.encoder_conv_stem(x))))
        return expected_position(self.encoder_conv_keypoints(x).astype(jnp.float32))

    def decode(self, frame: jax.Array, codewords: jax.Array) -> jax.Array:
        """float[B, H, W, 3], float[B, code_length, code_dim] -> next frame float[B, H, W, 3]."""
        condition = nn.gelu(self.decoder_dense_code(codewords.reshape(codewords.shape[0], -1)))
        fine = self.decoder_conv_stem(space_to_depth(frame, self.patch_size))
        for block in self.decoder_fine:
            fine = block(fine, condition)
        x = self.decoder_conv_down(fine)
        for block in self.decoder_coarse:
            x = block(x, condition)
        x = fine + depth_to_space(self.decoder_conv_up(x), 2)
        for block in self.decoder_out:
            x = block(x, condition)
        return frame + depth_to_space(self.decoder_conv_pixels(x).astype(jnp.float32), self.patch_size)
