"""Examples of stage 2: an instruction, a frame, and the latent action that begins there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import augment as augment_lib
from lapa_jax.data import encoded as encoded_lib
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import gaps, latent_rows, layouts, transforms
from lapa_jax.data import latents as latents_lib


@dataclasses.dataclass(frozen=True)
class Follow:
    """Latents that are found on the device by a LAQ, from pairs of frames.

    Attributes:
        gap: between the two.
        image_size: pixels that the LAQ sees.
    """

    gap: gaps.Gap
    image_size: int


@dataclasses.dataclass(frozen=True)
class Sight:
    """What an example shows: pixels, or what an encoder gave for them.

    Attributes:
        episodes: their frames.
        image_size: pixels a side; None as stored.
        resize: a name of `encoded.RESIZES`.
        augment: of pixels.
        encoded: of each frame; None for pixels.

    Raises:
        UserError: an augmentation of what is encoded already.
    """

    episodes: episodes_lib.Episodes
    image_size: int | None
    resize: str
    augment: augment_lib.Augment
    encoded: encoded_lib.Encoded | None

    def __post_init__(self) -> None:
        if self.encoded is not None and self.augment != augment_lib.Augment():
            raise errors.UserError("data.encoded holds images as they are: leave it alone, or data.augment")

    def look(self, episode: int, t: int, rng: np.random.Generator) -> np.ndarray:
        """uint8[H, W, 3], or as encoded."""
        if self.encoded is not None:
            return self.encoded.frame(episode, t)
        change = self.augment.draw(rng)
        return change(encoded_lib.read_frame(self.episodes, episode, t, self.image_size, self.resize))


class Examples:
    """(episode, step) -> a `latent_rows.Example`.

    Attributes:
        index: the steps that begin a pair.
        identity: all that examples hang on, beside the episodes and how they are seen.

    Args:
        labels: the codes of each pair, or where they come from.
        blank_rate: how often the instruction is replaced by the empty one.
    """

    def __init__(
        self, sight: Sight, labels: latents_lib.Latents | Follow, layout: layouts.Layout, blank_rate: float
    ) -> None:
        if not 0 <= blank_rate <= 1:
            raise errors.UserError(f"blank_instruction_rate {blank_rate} is not a probability; use 0..1")
        self._sight, self._labels, self._layout, self._blank_rate = sight, labels, layout, blank_rate
        self._follow = isinstance(labels, Follow)
        episodes = sight.episodes
        self._template, self._blank = of_each(episodes, layout.template), layout.template("")
        self._text = of_each(episodes, layout.text)
        self._steps = labels.gap.steps(episodes) if self._follow else gaps.Steps(labels.gap, labels.gap)
        self.index: transforms.StepIndex = self._steps.index(episodes)
        cache = None if sight.encoded is None else sight.encoded.provenance
        self.identity = (self._steps, labels if self._follow else None, layout.to_json(), blank_rate, cache)

    def __call__(self, at: tuple[int, int], rng: np.random.Generator) -> latent_rows.Example:
        episode, t = at
        blank = rng.random() < self._blank_rate
        template = self._blank if blank else self._template(episode)
        example: dict[str, Any] = dict(self._layout.text("") if blank else self._text(episode))
        example["image"] = self._sight.look(episode, t, rng)
        if self._follow:
            example["pair"], codes = self._pair(episode, t, rng), np.arange(self._layout.code_length)
        else:
            codes = self._labels.codes(episode)[t]
        return example | {latent_rows.SEQUENCE: layouts.with_latents(template, codes)}

    def size(self, at: tuple[int, int]) -> int:
        """Places that an example takes in a row, at most: a blank instruction takes fewer."""
        return self._template(at[0]).size

    def _pair(self, episode: int, t: int, rng: np.random.Generator) -> np.ndarray:
        """uint8[2, h, w, 3], as the LAQ wants to see them."""
        episodes, side = self._sight.episodes, self._labels.image_size
        later = self._steps.later(t, int(episodes.lengths[episode]), rng)
        return np.stack([episodes.frame(episode, step, side) for step in (t, later)])


def of_each(episodes: episodes_lib.Episodes, make: Callable[[str], Any]) -> Callable[[int], Any]:
    """episode -> `make(instruction)`; made once for each text.

    Raises:
        UserError: no episode has an instruction.
    """
    if not any(episodes.instructions):
        raise errors.UserError(
            f"{episodes.name} has no instruction in any episode; name its key in the table (docs/datasets.md)"
        )
    made = {text: make(text) for text in set(episodes.instructions)}
    return lambda episode: made[episodes.instructions[episode]]
