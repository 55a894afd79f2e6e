"""The latent action quantizer: two frames -> a few discrete codes -> the second frame again."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import laq_conv, laq_transformer
from lapa_jax.models.quantizers import QUANTIZERS

BACKBONES = {"conv": laq_conv.ConvBackbone, "transformer": laq_transformer.PatchTransformerBackbone}
TARGETS = ("pixels", "features")


@flax.struct.dataclass
class Latent:
    """A latent action.

    Attributes:
        codes: int32[B, N]; None of a continuous quantiser.
        z: float32[B, N, D], before quantisation.
        codewords: float32[B, N, D], what the decoder reads.
    """

    codes: jax.Array | None
    z: jax.Array
    codewords: jax.Array


@flax.struct.dataclass
class LAQOutput:
    """One pass over a pair.

    Attributes:
        reconstruction: float32[B, H, W, C] of `view(next_frame)`, not clipped.
        latent: the latent action.
        loss: float32[], the quantiser's own term.
        log: scalars of the quantiser.
    """

    reconstruction: jax.Array
    latent: Latent
    loss: jax.Array | float
    log: dict[str, jax.Array]


class LatentActionQuantizer(nn.Module):
    """LAPA's stage 1 (Ye et al. 2024, section 3.1), with backbone and quantiser by name.

    Frames are uint8[B, H, W, 3], or float already in [0, 1].

    Attributes:
        backbone: "conv" (small, for CPUs) or "transformer" (the paper's).
        backbone_args: its keyword arguments (sizes).
        quantizer: a name of `quantizers.QUANTIZERS`.
        quantizers: keyword arguments by name of quantiser, of which the chosen one's are read; "fsq" needs
            `levels`.
        num_codes: codes a token.
        code_length: latent action tokens a transition.
        code_dim: size of the vector that is quantised ("fsq" takes one dimension a level instead).
    """

    backbone: str = "conv"
    backbone_args: Any = flax.struct.field(default_factory=dict)
    quantizer: str = "fsq"
    quantizers: Any = flax.struct.field(default_factory=dict)
    num_codes: int = 8
    code_length: int = 1
    code_dim: int = 32

    def setup(self) -> None:
        _known("backbone", self.backbone, BACKBONES)
        _known("quantizer", self.quantizer, QUANTIZERS)
        for name, least in dict(num_codes=2, code_length=1, code_dim=1).items():
            if getattr(self, name) < least:
                raise errors.UserError(f"model.{name}={getattr(self, name)}: it must be {least} or more")
        args = dict(dict(self.quantizers).get(self.quantizer, {}))
        if self.quantizer == "fsq" and "levels" not in args:
            raise errors.UserError("model.quantizer=fsq needs model.quantizers.fsq.levels, cells a dimension")
        dim = len(args["levels"]) if self.quantizer == "fsq" else self.code_dim
        self.body = BACKBONES[self.backbone](
            code_length=self.code_length, code_dim=dim, **dict(self.backbone_args)
        )
        self.quantize = _made(self.quantizer, QUANTIZERS[self.quantizer], num_codes=self.num_codes, dim=dim, **args)

    @property
    def discrete(self) -> bool:
        """Whether there are codes."""
        return self.quantizer != "kl"

    def __call__(self, frame: jax.Array, next_frame: jax.Array, train: bool = False) -> LAQOutput:
        z, start = self.body.encode(self.view(frame), self.view(next_frame))
        out = self.quantize(z, train)
        # The decoder may not shape the features it starts from: that is how codes get ignored.
        reconstruction = self.body.decode(jax.lax.stop_gradient(start), out.codewords)
        return LAQOutput(reconstruction, Latent(out.codes, z, out.codewords), out.loss, out.log)

    def encode(self, frame: jax.Array, next_frame: jax.Array) -> Latent:
        """The latent action of a pair, without noise."""
        z, _ = self.body.encode(self.view(frame), self.view(next_frame))
        out = self.quantize(z, False)
        return Latent(out.codes, z, out.codewords)

    def decode(self, frame: jax.Array, latent: jax.Array) -> jax.Array:
        """What a latent action would make of `frame`: float32[B, H, W, C], like `view`.

        Args:
            latent: codes int[B, N] or codewords float[B, N, D].
        """
        frame = self.view(frame)
        _, start = self.body.encode(frame, frame)
        codewords = latent if jnp.issubdtype(latent.dtype, jnp.floating) else self.lookup(latent)
        return self.in_range(self.body.decode(start, codewords))

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Codewords float32[..., D] of codes int[...]."""
        if not self.discrete:
            raise errors.UserError("model.quantizer=kl is continuous and has no codes: give codewords")
        return self.quantize.lookup(codes)

    def view(self, frame: jax.Array) -> jax.Array:
        """The space of reconstructions: float32[B, H, W, C]; for pixels the frame itself in [0, 1]."""
        return to_unit(frame)

    def in_range(self, view: jax.Array) -> jax.Array:
        """A reconstruction cut to what `view` can be."""
        return jnp.clip(view, 0.0, 1.0)

    def maintain(self) -> None:
        """What the quantiser does between two gradients: restart dead codes. Needs params mutable."""
        if hasattr(self.quantize, "maintain"):
            self.quantize.maintain()


def _known(key: str, name: str, names: Any) -> None:
    if name not in names:
        raise errors.UserError(f"no model.{key} {name!r}; choose one of: {', '.join(names)}")


def _made(name: str, kind: type, **args: Any) -> Any:
    """`kind(**args)`; a keyword it does not have is the user's."""
    fields = set(kind.__dataclass_fields__) - {"parent", "name"}
    if unknown := sorted(set(args) - fields):
        own = ", ".join(sorted(fields - {"num_codes", "dim"}))
        raise errors.UserError(f"model.quantizers.{name} has no {unknown[0]!r}; it has: {own or 'nothing to set'}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in args.items()})


def init_fn(model: LatentActionQuantizer, image_size: int) -> Callable[[jax.Array], Any]:
    """key -> initial variables of a LAQ for frames of that size."""
    frame = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return lambda key: model.init({"params": key, "noise": key}, frame, frame, train=False)


def to_unit(image: jax.Array) -> jax.Array:
    """uint8 in [0, 255] -> float32 in [0, 1]; floats pass."""
    return image.astype(jnp.float32) / 255.0 if image.dtype == jnp.uint8 else image
