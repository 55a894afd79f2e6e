"""The latent action quantizer: two frames -> a few discrete codes -> the second frame again."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors
from lapa_jax.models import laq_conv, laq_transformer, quantize

BACKBONES = {"conv": laq_conv.ConvBackbone, "transformer": laq_transformer.PatchTransformerBackbone}

QUANTIZERS = ("fsq", "nsvq")


@flax.struct.dataclass
class LAQOutput:
    """reconstruction float[B, H, W, 3]; codes int32[B, N]; z, the pre-quantised vector float[B, N, D]."""

    reconstruction: jax.Array
    codes: jax.Array
    z: jax.Array


class LatentActionQuantizer(nn.Module):
    """LAPA's stage 1 (Ye et al. 2024, section 3.1), with the backbone and the quantiser by name.

    Frames are uint8[B, H, W, 3], or float already in [0, 1].

    Attributes:
        backbone: "conv" (small, for CPUs) or "transformer" (the paper's).
        backbone_args: its keyword arguments (sizes).
        quantizer: "fsq" or "nsvq".
        levels: cells per dimension for "fsq"; the number of codes is their product.
        soft_steps: training steps over which "fsq" is phased in.
        num_codes: codebook size for "nsvq".
        code_length: latent action tokens a transition.
        code_dim: size of the vector that "nsvq" quantises ("fsq": one a level).
    """

    backbone: str = "conv"
    backbone_args: Any = flax.struct.field(default_factory=dict)
    quantizer: str = "fsq"
    levels: tuple[int, ...] = (2, 2, 2)
    soft_steps: int = 0
    num_codes: int = 8
    code_length: int = 1
    code_dim: int = 32

    def setup(self) -> None:
        dim = len(self.levels) if self.quantizer == "fsq" else self.code_dim
        if self.quantizer == "fsq" and int(np.prod(self.levels)) != self.num_codes:
            raise errors.UserError(f"model.levels={self.levels} do not multiply to num_codes={self.num_codes}")
        _known("backbone", self.backbone, BACKBONES)
        _known("quantizer", self.quantizer, QUANTIZERS)
        kind = BACKBONES[self.backbone]
        self.body = kind(code_length=self.code_length, code_dim=dim, **dict(self.backbone_args))
        if self.quantizer == "fsq":
            self.quantize = quantize.FSQ(tuple(self.levels), self.soft_steps)
        else:
            self.quantize = quantize.NSVQ(self.num_codes, dim)

    def __call__(self, frame: jax.Array, next_frame: jax.Array, train: bool = False) -> LAQOutput:
        frame, next_frame = to_unit(frame), to_unit(next_frame)
        z, start = self.body.encode(frame, next_frame)
        codewords, codes = self.quantize(z, train)
        # The decoder may not shape the features it starts from: that is how codes get ignored.
        reconstruction = self.body.decode(jax.lax.stop_gradient(start), codewords)
        return LAQOutput(reconstruction, codes, z)

    def encode(self, frame: jax.Array, next_frame: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> (codes int32[B, N], z float[B, N, D])."""
        z, _ = self.body.encode(to_unit(frame), to_unit(next_frame))
        return self.quantize(z, False)[1], z

    def decode(self, frame: jax.Array, codes: jax.Array) -> jax.Array:
        """What the codes int[B, N] would make of `frame`: float[B, H, W, 3], clipped to [0, 1]."""
        frame = to_unit(frame)
        _, start = self.body.encode(frame, frame)
        return jnp.clip(self.body.decode(start, self.quantize.lookup(codes)), 0.0, 1.0)


def _known(key: str, name: str, names: Any) -> None:
    if name not in names:
        raise errors.UserError(f"no model.{key} {name!r}; choose one of: {', '.join(names)}")


def to_unit(image: jax.Array) -> jax.Array:
    """uint8 in [0, 255] -> float32 in [0, 1]; floats pass."""
    return image.astype(jnp.float32) / 255.0 if image.dtype == jnp.uint8 else image
