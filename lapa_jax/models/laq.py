"""The latent action quantizer: two frames -> a few discrete codes -> the second frame again."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import laq_conv, laq_text, laq_transformer, perceptual
from lapa_jax.models.quantizers import QUANTIZERS

BACKBONES = {"conv": laq_conv.ConvBackbone, "transformer": laq_transformer.PatchTransformerBackbone}
TARGETS = ("pixels", "features")
PHASES = (None, "scene", "task")
FROZEN = perceptual.FROZEN


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
    """LAPA's stage 1 (Ye et al. 2024, section 3.1), with backbone, quantiser and target by name.

    Frames are uint8[B, H, W, 3], or float already in [0, 1].

    With a `phase` the latent action is of two parts (UniVLA, Bu et al. 2025, section 3.1). In phase "scene"
    the decoder reads `scene_length` codes and the instruction, so those codes need not say what the
    instruction says. In phase "task" it reads the same codes, their quantiser frozen, and `code_length` new
    ones in the place of the instruction: these say what the task is about, and are what gets labelled.

    Attributes:
        backbone: "conv" (small, for CPUs) or "transformer" (the paper's).
        backbone_args: its keyword arguments (sizes).
        quantizer: a name of `quantizers.QUANTIZERS`.
        quantizers: keyword arguments by name of quantiser, of which the chosen one's are read; "fsq" needs
            `levels`.
        num_codes: codes a token.
        code_length: latent action tokens a transition.
        code_dim: size of the vector that is quantised ("fsq" takes one dimension a level instead).
        target: "pixels", or "features" of the tower (encoder and decoder then see features only).
        tower: keyword arguments of a `vision.VisionTower`; None for none.
        phase: None, "scene" or "task".
        scene_length: codes beside those of the task.
        text_vocab: words that instructions are made of, for the phases.
        action_dim: outputs of a head that reads actions off z (LAOM, Nikulin et al. 2025); 0 for none.
    """

    backbone: str = "conv"
    backbone_args: Any = flax.struct.field(default_factory=dict)
    quantizer: str = "fsq"
    quantizers: Any = flax.struct.field(default_factory=dict)
    num_codes: int = 8
    code_length: int = 1
    code_dim: int = 32
    target: str = "pixels"
    tower: Any = None
    phase: str | None = None
    scene_length: int = 0
    text_vocab: int = 0
    action_dim: int = 0

    def setup(self) -> None:
        self._check()
        args = dict(dict(self.quantizers).get(self.quantizer, {}))
        if self.quantizer == "fsq" and "levels" not in args:
            raise errors.UserError("model.quantizer=fsq needs model.quantizers.fsq.levels, cells a dimension")
        dim = len(args["levels"]) if self.quantizer == "fsq" else self.code_dim
        length = self.code_length + (self.scene_length if self.phase else 0)
        self.body = _made(
            "backbone_args", BACKBONES[self.backbone], code_length=length, code_dim=dim, **self._space()
        )
        kind, args = QUANTIZERS[self.quantizer], dict(num_codes=self.num_codes, dim=dim, **args)
        self.quantize = _made(f"quantizers.{self.quantizer}", kind, **args)
        if self.phase:
            self.quantize_scene = _made(f"quantizers.{self.quantizer}", kind, **args)
            self.text_tokens = laq_text.TextTokens(self.text_vocab, self.code_length, dim)
        if self.action_dim:
            self.dense_action = nn.Dense(self.action_dim)
        if self.tower is not None:
            self.frozen = self.variable(FROZEN, "tower", self._random_tower)

    @property
    def discrete(self) -> bool:
        """Whether there are codes."""
        return self.quantizer != "kl"

    @property
    def num_tokens(self) -> int:
        """Codes that `encode` returns for a pair."""
        return self.scene_length if self.phase == "scene" else self.code_length

    def __call__(
        self, frame: jax.Array, next_frame: jax.Array, text: jax.Array | None = None, train: bool = False
    ) -> LAQOutput:
        z, start = self.body.encode(self.view(frame), self.view(next_frame))
        latent, context, out = self._bottleneck(z, text, train)
        # The decoder may not shape the features it starts from: that is how codes get ignored.
        reconstruction = self.body.decode(jax.lax.stop_gradient(start), context)
        if self.is_initializing() and self.action_dim:
            self.action(frame, next_frame)
        return LAQOutput(reconstruction, latent, out.loss, out.log)

    def encode(self, frame: jax.Array, next_frame: jax.Array) -> Latent:
        """The latent action of a pair, without noise."""
        z, _ = self.body.encode(self.view(frame), self.view(next_frame))
        return self._bottleneck(z, None, False)[0]

    def decode(self, frame: jax.Array, latent: jax.Array) -> jax.Array:
        """What a latent action would make of `frame`: float32[B, H, W, C], like `view`.

        Args:
            latent: codes int[B, N] or codewords float[B, N, D]. In phase "task" the scene's codes are those of
                a pair in which nothing happens.
        """
        frame = self.view(frame)
        z, start = self.body.encode(frame, frame)
        codewords = latent if jnp.issubdtype(latent.dtype, jnp.floating) else self.lookup(latent)
        if self.phase == "task":
            codewords = jnp.concatenate([self._scene(z, False).codewords, codewords], axis=1)
        elif self.phase == "scene":
            codewords = jnp.concatenate([codewords, jnp.zeros_like(z[:, self.scene_length :])], axis=1)
        return self.in_range(self.body.decode(start, codewords))

    def action(self, frame: jax.Array, next_frame: jax.Array) -> jax.Array:
        """The robot's normalised action between the frames, linear in z: float32[B, action_dim]."""
        z = self.encode(frame, next_frame).z
        return self.dense_action(z.reshape(len(z), -1))

    def lookup(self, codes: jax.Array) -> jax.Array:
        """Codewords float32[..., D] of codes int[...]."""
        if not self.discrete:
            raise errors.UserError("model.quantizer=kl is continuous and has no codes: give codewords")
        return (self.quantize_scene if self.phase == "scene" else self.quantize).lookup(codes)

    def view(self, frame: jax.Array) -> jax.Array:
        """What is rebuilt: the frame in [0, 1], or its features; float32[B, H, W, C], without gradient."""
        frame = jax.lax.stop_gradient(to_unit(frame))
        return frame if self.target == "pixels" else self.features(frame)

    def features(self, image: jax.Array) -> jax.Array:
        """Patch features of the tower, each of zero mean and unit variance: float32[B, h, w, D].

        The gradient reaches the image (for perceptual losses) and not the tower.
        """
        return perceptual.features(self.tower, self.frozen.value, to_unit(image))

    def in_range(self, view: jax.Array) -> jax.Array:
        """A reconstruction cut to what `view` can be."""
        return jnp.clip(view, 0.0, 1.0) if self.target == "pixels" else view

    def maintain(self, batches: int = 1) -> None:
        """What the quantiser does between two gradients: restart dead codes. Needs params mutable."""
        quantize = self.quantize_scene if self.phase == "scene" else self.quantize
        if hasattr(quantize, "maintain"):
            quantize.maintain(batches)

    def _bottleneck(self, z: jax.Array, text: jax.Array | None, train: bool) -> tuple[Latent, jax.Array, Any]:
        """The latent action, what the decoder reads of it, and what the quantiser returned."""
        if self.phase is None:
            out = self.quantize(z, train)
            return Latent(out.codes, z, out.codewords), out.codewords, out
        scene, task = jnp.split(z, [self.scene_length], axis=1)
        if self.is_initializing():  # both phases have the parameters of both
            self.quantize(task, train)
            self.text_tokens(text)
        if self.phase == "scene":
            out = self._scene(z, train)
            said = jnp.zeros_like(task) if text is None else self.text_tokens(text)
            return Latent(out.codes, scene, out.codewords), jnp.concatenate([out.codewords, said], axis=1), out
        out = self.quantize(task, train)
        context = jnp.concatenate([self._scene(z, False).codewords, out.codewords], axis=1)
        return Latent(out.codes, task, out.codewords), context, out

    def _scene(self, z: jax.Array, train: bool) -> Any:
        return self.quantize_scene(z[:, : self.scene_length], train)

    def _space(self) -> dict[str, Any]:
        """The backbone's arguments; over features they are of a grid with a cell a patch of the tower."""
        args = dict(self.backbone_args)
        if self.target == "features":
            patch = self.tower["patch_size"]
            args |= {"patch_size": 1, "channels": self.tower["width"]}
            args |= {"image_size": args["image_size"] // patch} if "image_size" in args else {}
        return args

    def _random_tower(self) -> Any:
        return perceptual.random_tower(self.tower, self.make_rng("params"))

    def _check(self) -> None:
        for key, names in dict(backbone=BACKBONES, quantizer=QUANTIZERS, target=TARGETS, phase=PHASES).items():
            if getattr(self, key) not in names:
                known = ", ".join(map(str, names))
                raise errors.UserError(f"no model.{key} {getattr(self, key)!r}; choose one of: {known}")
        least = dict(num_codes=2, code_length=1, code_dim=1)
        least |= dict(scene_length=1, text_vocab=2) if self.phase else {}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise errors.UserError(f"model.{name}={getattr(self, name)}: it must be {value} or more")
        if self.target == "features" and self.tower is None:
            raise errors.UserError("model.target=features needs a tower: give --config.tower.path=FOLDER of one")


def _made(key: str, kind: type, **args: Any) -> Any:
    """`kind(**args)`; a keyword it does not have is the user's mistake."""
    fields = set(kind.__dataclass_fields__) - {"parent", "name"}
    if unknown := sorted(set(args) - fields):
        own = ", ".join(sorted(fields - {"num_codes", "dim", "code_length", "code_dim"}))
        raise errors.UserError(f"model.{key} has no {unknown[0]!r}; it has: {own or 'nothing to set'}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in args.items()})


def init_fn(model: LatentActionQuantizer, image_size: int, text_length: int = 1) -> Callable[[jax.Array], Any]:
    """key -> initial variables of a LAQ for frames of that size."""
    frame = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    text = jnp.zeros((1, text_length), jnp.int32) if model.phase else None
    return lambda key: model.init({"params": key, "noise": key}, frame, frame, text, train=False)


def to_unit(image: jax.Array) -> jax.Array:
    """uint8 in [0, 255] -> float32 in [0, 1]; floats pass."""
    return image.astype(jnp.float32) / 255.0 if image.dtype == jnp.uint8 else image
