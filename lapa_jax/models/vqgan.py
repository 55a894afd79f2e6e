"""The image tokenizer of LWM and LAPA: an image -> a grid of codes -> the image again (Esser et al. 2021).

This is the generator; no discriminator is trained here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import vqgan_layers
from lapa_jax.models.quantizers import QUANTIZERS

SIZES: dict[str, dict[str, Any]] = {
    "base": dict(  # as published: 256 px to 16 x 16 codes
        width=128, multipliers=(1, 2, 2, 4, 6), num_blocks=2, z_channels=64, norm_groups=32,
        num_codes=8192, code_dim=64,
    ),
    "small": dict(  # 64 px to 8 x 8 codes, for two CPU cores
        width=16, multipliers=(1, 2, 2, 4), num_blocks=1, z_channels=32, norm_groups=8, num_codes=512, code_dim=8,
    ),
    "tiny": dict(
        width=4, multipliers=(1, 2, 2), num_blocks=1, z_channels=8, norm_groups=2, num_codes=16, code_dim=4,
    ),
}  # fmt: skip
LEARNED = ("vq", "vq_ema")
"""The quantisers with a codebook of vectors, which is what an image tokenizer has."""


@flax.struct.dataclass
class Codes:
    """Images as codes.

    Attributes:
        ids: int32[..., h, w].
        z: float32[..., h, w, D], before quantisation.
        codewords: float32[..., h, w, D], what the decoder reads.
    """

    ids: jax.Array
    z: jax.Array
    codewords: jax.Array


@flax.struct.dataclass
class Output:
    """One pass over images.

    Attributes:
        reconstruction: float32[..., H, W, 3], not clipped.
        codes: of the images.
        loss: float32[], the quantiser's own term.
        log: scalars of the quantiser.
    """

    reconstruction: jax.Array
    codes: Codes
    loss: jax.Array | float
    log: dict[str, jax.Array]


class VQGAN(nn.Module):
    """Images are uint8[..., H, W, 3], or float already in [-1, 1]; leading axes are kept (video has two).

    Attributes:
        width: channels at the finest resolution.
        multipliers: of the width, one a resolution; each but the first halves height and width.
        num_blocks: residual blocks a resolution; the decoder has one more.
        z_channels: between encoder or decoder and the 1x1 convolutions around the codes.
        norm_groups: of every group norm.
        num_codes: codes a place may take.
        code_dim: size of the vector that is quantised.
        quantizer: "vq" (as published) or "vq_ema".
        quantizers: keyword arguments by name of quantiser, of which the chosen one's are read.
        dtype: of the convolutions; codes are looked up in float32.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 6)
    num_blocks: int = 2
    z_channels: int = 64
    norm_groups: int = 32
    num_codes: int = 8192
    code_dim: int = 64
    quantizer: str = "vq"
    quantizers: Any = flax.struct.field(default_factory=dict)
    dtype: str = "float32"

    def setup(self) -> None:
        self._check()
        channels = tuple(self.width * factor for factor in self.multipliers)
        common = dict(norm_groups=self.norm_groups, dtype=self.dtype, channels=channels, num_blocks=self.num_blocks)
        self.encoder = vqgan_layers.Encoder(**common, out=self.z_channels)
        self.decoder = vqgan_layers.Decoder(**common)
        self.conv_to_codes = nn.Conv(self.code_dim, (1, 1))
        self.conv_from_codes = nn.Conv(self.z_channels, (1, 1))
        args = dict(self.quantizers).get(self.quantizer, {})
        self.quantize = QUANTIZERS[self.quantizer](num_codes=self.num_codes, dim=self.code_dim, **args)

    @property
    def factor(self) -> int:
        """Pixels a code is wide."""
        return 2 ** (len(self.multipliers) - 1)

    def __call__(self, image: jax.Array, train: bool = False) -> Output:
        codes, quantized = self._encode(image, train)
        return Output(self._decode(codes.codewords), codes, quantized.loss, quantized.log)

    def encode(self, image: jax.Array) -> Codes:
        """The codes of images."""
        return self._encode(image, train=False)[0]

    def decode(self, codes: jax.Array) -> jax.Array:
        """Images float32[..., H, W, 3] in [-1, 1] of ids int[..., h, w] or codewords float[..., h, w, D]."""
        codewords = codes if jnp.issubdtype(codes.dtype, jnp.floating) else self.quantize.lookup(codes)
        return jnp.clip(self._decode(codewords), -1.0, 1.0)

    def maintain(self, batches: int = 1) -> None:
        """Restart dead codes, between two gradients. Needs params mutable."""
        self.quantize.maintain(batches)

    def _encode(self, image: jax.Array, train: bool) -> tuple[Codes, Any]:
        height, width, channels = image.shape[-3:]
        if height % self.factor or width % self.factor or channels != 3:
            raise errors.UserError(
                f"the image tokenizer got images of {height}x{width}x{channels} and makes a code of "
                f"{self.factor}x{self.factor}x3 values: set data.image_size to a multiple of {self.factor}"
            )
        x = self.encoder(to_signed(image).reshape(-1, height, width, 3))
        z = self.conv_to_codes(x.astype(jnp.float32))
        quantized = self.quantize(z.reshape(len(z), -1, self.code_dim), train)
        grid = *image.shape[:-3], *z.shape[1:3]
        vectors = *grid, self.code_dim
        codes = Codes(quantized.codes.reshape(grid), z.reshape(vectors), quantized.codewords.reshape(vectors))
        return codes, quantized

    def _decode(self, codewords: jax.Array) -> jax.Array:
        z = codewords.reshape(-1, *codewords.shape[-3:])
        image = self.decoder(self.conv_from_codes(z)).astype(jnp.float32)
        return image.reshape(*codewords.shape[:-3], *image.shape[1:])

    def _check(self) -> None:
        if self.quantizer not in LEARNED:
            raise errors.UserError(f"no model.quantizer {self.quantizer!r}; choose one of: {', '.join(LEARNED)}")
        own = set(QUANTIZERS[self.quantizer].__dataclass_fields__) - {"parent", "name", "num_codes", "dim"}
        if unknown := set(dict(self.quantizers).get(self.quantizer, {})) - own:
            known = ", ".join(sorted(own))
            raise errors.UserError(f"model.quantizers.{self.quantizer} has no {min(unknown)!r}; it has: {known}")
        least = dict(width=1, num_blocks=1, z_channels=1, norm_groups=1, num_codes=2, code_dim=1)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise errors.UserError(f"model.{name}={getattr(self, name)}: it must be {value} or more")
        channels = [self.width * factor for factor in self.multipliers]
        if not channels or any(count < 1 or count % self.norm_groups for count in channels):
            raise errors.UserError(
                f"model.width={self.width} times model.multipliers={tuple(self.multipliers)} must be multiples of "
                f"model.norm_groups={self.norm_groups}"
            )


def from_config(args: Mapping[str, Any]) -> VQGAN:
    """The model of a config's `model`, also of one that was JSON; hashable, so that `jit` takes it as static."""
    frozen = {"multipliers": tuple(args["multipliers"]), "quantizers": flax.core.freeze(dict(args["quantizers"]))}
    return VQGAN(**dict(args) | frozen)


def init_fn(model: VQGAN, image_size: int) -> Callable[[jax.Array], Any]:
    """key -> initial variables."""
    image = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return lambda key: model.init({"params": key, "noise": key}, image)


def to_signed(image: jax.Array) -> jax.Array:
    """uint8 in [0, 255] -> float32 in [-1, 1]; floats pass."""
    return image.astype(jnp.float32) / 127.5 - 1.0 if image.dtype == jnp.uint8 else image


def to_uint8(image: jax.Array) -> jax.Array:
    """Floats in [-1, 1] -> the nearest uint8."""
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
