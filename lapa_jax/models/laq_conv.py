"""A small convolutional backbone for the LAQ: sees sub-patch motion, cheap enough for a laptop CPU.

The encoder looks at both frames at once; the decoder starts from the first frame and is told what to
change by the codewords (feature-wise scale and shift in each block).
"""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp


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


def cross_correlation(a: jax.Array, b: jax.Array, reach: int) -> jax.Array:
    """How well b matches a moved by each displacement, summed over places and channels.

    Args:
        a, b: float[B, H, W, C]. reach: displacements up to this many cells in each direction.

    Returns:
        float[B, 2 * reach + 1, 2 * reach + 1]: entry (reach + dy, reach + dx) is sum a(p) b(p + (dy, dx)).
    """
    size = [n + reach for n in a.shape[1:3]]  # zero padding: nothing wraps around within reach
    fa, fb = (jnp.fft.rfft2(x.astype(jnp.float32), s=size, axes=(1, 2)) for x in (a, b))
    full = jnp.fft.irfft2(jnp.sum(jnp.conj(fa) * fb, axis=-1), s=size, axes=(1, 2))
    rows, cols = (jnp.arange(-reach, reach + 1) % n for n in size)
    return full[:, rows][:, :, cols]


class ConvBackbone(nn.Module):
    """Conv encoder and decoder of the LAQ.

    The encoder may only say HOW things moved, not where: it sees the cross-correlation of both frames'
    features where they changed (a correlation volume as in FlowNet, Dosovitskiy et al. 2015, summed
    over places). An encoder that knows positions learns codes whose meaning changes from place to place.

    Attributes:
        width: channels at `patch_size` resolution; twice that one level below.
        depth: residual blocks per level.
        code_length, code_dim: tokens a transition and size of the vector that is quantised.
        patch_size: pixels folded into channels by the stem.
        reach: largest displacement seen, in patches.
    """

    width: int = 32
    depth: int = 1
    code_length: int = 1
    code_dim: int = 3
    patch_size: int = 4
    reach: int = 4
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.encoder_conv_stem = nn.Conv(self.width, (3, 3), dtype=self.dtype)
        self.encoder_conv_match = nn.Conv(self.width // 2, (3, 3), dtype=self.dtype)
        self.encoder_conv_change = nn.Conv(self.width, (3, 3), dtype=self.dtype)
        self.encoder_conv_gate = nn.Conv(1, (1, 1), dtype=self.dtype)
        self.encoder_norm = nn.LayerNorm()
        self.encoder_dense = nn.Dense(4 * self.width)
        self.encoder_dense_code = nn.Dense(self.code_length * self.code_dim)
        self.decoder_conv_stem = nn.Conv(self.width, (1, 1), dtype=self.dtype)
        self.decoder_dense_code = nn.Dense(2 * self.width, dtype=self.dtype)
        self.decoder_fine = [ConvBlock(self.width, self.dtype) for _ in range(self.depth)]
        self.decoder_conv_down = nn.Conv(2 * self.width, (3, 3), strides=2, dtype=self.dtype)
        self.decoder_coarse = [ConvBlock(2 * self.width, self.dtype) for _ in range(self.depth)]
        self.decoder_conv_up = nn.Conv(4 * self.width, (1, 1), dtype=self.dtype)
        self.decoder_out = [ConvBlock(self.width, self.dtype) for _ in range(self.depth)]
        self.decoder_conv_pixels = nn.Conv(
            3 * self.patch_size**2, (1, 1), kernel_init=nn.initializers.normal(1e-3)
        )

    def encode(self, frame: jax.Array, next_frame: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> (z float[B, code_length, code_dim], what the decoder starts from: frame itself)."""
        change = space_to_depth(jnp.abs(next_frame - frame), self.patch_size)
        gate = nn.sigmoid(self.encoder_conv_gate(nn.gelu(self.encoder_conv_change(change))))
        before, after = (gate * self._match(x) for x in (frame, next_frame))
        volume = cross_correlation(before, after, self.reach).reshape(frame.shape[0], -1)
        x = nn.gelu(self.encoder_dense(self.encoder_norm(volume)))
        return self.encoder_dense_code(x).reshape(-1, self.code_length, self.code_dim), frame

    def _match(self, frame: jax.Array) -> jax.Array:
        x = self.encoder_conv_stem(space_to_depth(frame - 0.5, self.patch_size))
        return self.encoder_conv_match(nn.gelu(x))

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
