"""Encoder and decoder of the image tokenizer: convolutions, group norms, nothing else.

Modules are named in the order in which they run; `convert/vqgan_names.py` has the official names.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax.sharding import constrain_batch


class Layers(nn.Module):
    """What makes layers alike.

    Attributes:
        norm_groups: of every group norm; divides all numbers of channels.
        dtype: of the computation; parameters are float32.
    """

    norm_groups: int
    dtype: str

    def conv(self, channels: int, name: str, size: int = 3, **how: object) -> nn.Conv:
        return nn.Conv(channels, (size, size), dtype=self.dtype, name=name, **how)

    def norm(self, name: str) -> nn.GroupNorm:
        return nn.GroupNorm(self.norm_groups, dtype=self.dtype, name=name)

    def block(self, channels: int, name: str) -> "Block":
        return Block(self.norm_groups, self.dtype, channels, name=name)


class Block(Layers):
    """Two convolutions beside the input, which is projected where the number of channels changes."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = constrain_batch(x)
        y = self.conv(self.channels, "conv_in")(nn.silu(self.norm("norm_in")(x)))
        y = self.conv(self.channels, "conv_out")(nn.silu(self.norm("norm_out")(y)))
        if x.shape[-1] != self.channels:
            x = self.conv(self.channels, "conv_skip", size=1)(x)
        return x + y


class Level(Layers):
    """Blocks at one resolution."""

    channels: int
    num_blocks: int
    last: bool

    def blocks(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_blocks):
            x = self.block(self.channels, f"block_{i}")(x)
        return x


class Down(Level):
    """Blocks at one resolution, then, unless it is the last, half of it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.blocks(x)
        if self.last:
            return x
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # below and on the right only, as in the official code
        return self.conv(self.channels, "conv_down", strides=2, padding="VALID")(x)


class Up(Level):
    """Blocks at one resolution, then, unless it is the last, twice of it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.blocks(x)
        if self.last:
            return x
        return self.conv(self.channels, "conv_up")(x.repeat(2, axis=1).repeat(2, axis=2))


class Encoder(Layers):
    """float[B, H, W, 3] -> float[B, h, w, out]; `channels` has one number a resolution, the finest first."""

    channels: tuple[int, ...]
    num_blocks: int
    out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(self.channels[0], "conv_in")(x)
        for i, channels in enumerate(self.channels):
            last = i == len(self.channels) - 1
            x = Down(self.norm_groups, self.dtype, channels, self.num_blocks, last, name=f"down_{i}")(x)
        for i in range(2):
            x = self.block(x.shape[-1], f"middle_{i}")(x)
        return self.conv(self.out, "conv_out")(nn.silu(self.norm("norm_out")(x)))


class Decoder(Layers):
    """float[B, h, w, z] -> float[B, H, W, 3]; `channels` as in `Encoder`, run from the coarsest."""

    channels: tuple[int, ...]
    num_blocks: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = self.conv(self.channels[-1], "conv_in")(z)
        for i in range(2):
            x = self.block(x.shape[-1], f"middle_{i}")(x)
        for i, channels in enumerate(reversed(self.channels)):
            last = i == len(self.channels) - 1
            x = Up(self.norm_groups, self.dtype, channels, self.num_blocks + 1, last, name=f"up_{i}")(x)
        return self.conv(3, "conv_out")(nn.silu(self.norm("norm_out")(x)))
