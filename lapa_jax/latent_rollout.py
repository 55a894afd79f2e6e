"""The neural simulator: a VLM picks a latent action, a LAQ paints the frame it leads to, and so on.

Ye et al. 2024, appendix on latent actions as a neural simulation. No robot and no simulator is involved.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax import errors, generate, trained
from lapa_jax.models import image_encoders, laq, vqgan


def check_fit(code_length: int, num_codes: int, quantizer: laq.LatentActionQuantizer) -> None:
    """Can this LAQ paint what a VLM predicts, `code_length` codes of `num_codes`?

    Raises:
        UserError: the two do not fit together, or the LAQ paints no pixels.
    """
    theirs = quantizer.code_length, quantizer.num_codes
    if code_length != theirs[0] or num_codes < theirs[1]:
        raise errors.UserError(
            f"the VLM predicts {code_length} codes of {num_codes} and the LAQ has {theirs[0]} of {theirs[1]}: "
            "give the LAQ that the VLM was trained on"
        )
    if quantizer.target != "pixels":
        raise errors.UserError("this LAQ rebuilds features (model.target=features) and paints no frame")


@dataclasses.dataclass(frozen=True, eq=False)
class Simulator:
    """
    Attributes:
        planner: the VLM.
        quantizer: the LAQ whose codes it was trained on.
        sampling: how codes are chosen.

    Raises:
        UserError: as `check_fit`.
    """

    planner: trained.Planner
    quantizer: laq.LatentActionQuantizer
    sampling: generate.Sampling = generate.GREEDY

    def __post_init__(self) -> None:
        check_fit(self.planner.layout.code_length, self.planner.model.vocabs["latent"], self.quantizer)

    @functools.partial(jax.jit, static_argnums=0)
    def imagine(
        self, variables: Mapping[str, Any], prompt: Mapping[str, jax.Array], frame: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """As many steps as there are keys, from a frame float32[B, h, w, 3] in [0, 1] of the LAQ's size.

        Args:
            variables: of the planner ("planner") and of the LAQ ("laq").
            prompt: of `Planner.prompts`.

        Returns:
            codes int32[S, B, N] and frames float32[S, B, h, w, 3].
        """

        def step(frame: jax.Array, key: jax.Array) -> Any:
            codes = self._codes(variables["planner"], prompt, frame, key)
            frame = self._painted(variables["laq"], frame, codes)
            return frame, (codes, frame)

        return jax.lax.scan(step, frame, keys)[1]

    @functools.partial(jax.jit, static_argnums=0)
    def replay(self, variables: Mapping[str, Any], frame: jax.Array, codes: jax.Array) -> jax.Array:
        """Where given codes int[S, B, N] lead: float32[S, B, h, w, 3]."""

        def step(frame: jax.Array, codes: jax.Array) -> Any:
            frame = self._painted(variables["laq"], frame, codes)
            return frame, frame

        return jax.lax.scan(step, frame, codes)[1]

    @functools.partial(jax.jit, static_argnums=0)
    def label(self, variables: Mapping[str, Any], frames: jax.Array) -> jax.Array:
        """The codes int32[S, B, N] between the S + 1 frames float32[S + 1, B, h, w, 3] of a video."""
        encode = functools.partial(self.quantizer.apply, variables["laq"], method="encode")
        return jax.lax.map(lambda pair: encode(*pair).codes, (frames[:-1], frames[1:]))

    def _codes(
        self, variables: Any, prompt: Mapping[str, jax.Array], frame: jax.Array, key: jax.Array
    ) -> jax.Array:
        size = self.planner.image_size
        if frame.shape[1] != size:
            frame = jax.image.resize(frame, (len(frame), size, size, 3), "linear")
        pixels = vqgan.to_uint8(2.0 * frame - 1.0)
        image = image_encoders.looked(self.planner.encoder, variables, pixels)[:, None]
        text = prompt["text"][:, None] if "text" in prompt else None
        params, tokens = {"params": variables["params"]}, trained.tokens_of(prompt)
        found = generate.generate(
            self.planner.model, params, tokens, image, text,
            count=self.planner.layout.code_length, sampling=self.sampling, key=key, allowed=self._allowed,
        )  # fmt: skip
        return found.ids

    @property
    def _allowed(self) -> jax.Array:
        """A table of latents may have more rows than the LAQ has codes."""
        rows = jnp.arange(self.planner.model.vocabs["latent"]) < self.quantizer.num_codes
        return jnp.broadcast_to(rows, (self.planner.layout.code_length, len(rows)))

    def _painted(self, variables: Any, frame: jax.Array, codes: jax.Array) -> jax.Array:
        return self.quantizer.apply(variables, frame, codes, method="decode")
