"""What a policy's latent actions lead to, painted by the LAQ whose codes they are."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lapa_jax import errors, latent_rollout, sharding, trained
from lapa_jax.data import transforms
from lapa_jax.models import laq


@dataclasses.dataclass(frozen=True)
class Imagined:
    """Two frames of the LAQ's size, uint8[h, w, 3].

    Attributes:
        seen: the frame that was looked at.
        painted: the one that the latent action would lead to.
    """

    seen: np.ndarray
    painted: np.ndarray


class Imagination:
    """A frame and the latent tokens of a policy -> the frame a gap later. May be called from any thread.

        imagine = Imagination.from_checkpoint("runs/demo/laq", policy.metadata)
        painted = imagine(image, policy.infer(observation)["latents"]).painted

    Args:
        variables: of the quantizer.
        image_size: of its frames, in pixels.
        gap: seconds between the two frames that it was trained on; None where they differ.
    """

    def __init__(
        self, quantizer: laq.LatentActionQuantizer, variables: Any, image_size: int, gap: float | None
    ) -> None:
        self.gap = gap
        self._quantizer, self._variables, self._size = quantizer, variables, image_size
        self._decode = jax.jit(functools.partial(quantizer.apply, method="decode"))

    @classmethod
    def from_checkpoint(cls, folder: str | pathlib.Path, metadata: Mapping[str, Any]) -> "Imagination":
        """The LAQ of a `train_laq` run on this process's first device, compiled.

        Args:
            metadata: of the policy, of which `code_length` and `num_codes` are read. They have to fit; whether the
                policy learned from this very LAQ cannot be told.

        Raises:
            UserError: no such run, another number of codes, or a LAQ that paints no frame.
        """
        mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
        quantizer, state, run = trained.load_laq(folder, mesh)
        latent_rollout.check_fit(metadata["code_length"], metadata["num_codes"], quantizer)
        data = run["data"]
        gap = None if data.get("longest_gap") else data.get("gap")
        variables = {"params": state.params, **state.variables}
        made = cls(quantizer, variables, data["image_size"], gap)
        size = data["image_size"]
        made(np.zeros((size, size, 3), np.uint8), np.zeros(quantizer.code_length, np.int32))
        return made

    def __call__(self, image: np.ndarray, latents: np.ndarray) -> Imagined:
        """
        Args:
            image: uint8[H, W, 3], of any size.
            latents: int[N].

        Raises:
            UserError: another number of codes than the LAQ has, or a code that it has not.
        """
        codes = np.asarray(latents, np.int32)
        length, count = self._quantizer.code_length, self._quantizer.num_codes
        if codes.shape != (length,) or codes.min() < 0 or codes.max() >= count:
            raise errors.UserError(f"latents {codes.tolist()}: this LAQ paints {length} codes below {count}")
        seen = transforms.resize(image, self._size)
        painted = self._decode(self._variables, seen[None], codes[None])[0]
        return Imagined(seen, np.round(np.asarray(painted) * 255).astype(np.uint8))
