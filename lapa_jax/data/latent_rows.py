"""Rows of stage 2: one sequence each, or several that share a row."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors, vocab
from lapa_jax.data import layouts, sequences
from lapa_jax.data.sequences import Batch, Tokens

Example = dict[str, Any]
"""`sequence`, a `Tokens` with latents in it or numbers of latents; other arrays are of its image."""

SEQUENCE = "sequence"


@dataclasses.dataclass(frozen=True)
class Rows:
    """
    Attributes:
        layout: of the sequences.
        length: places in a row.
        most: examples that a row may hold.
        packed: rows take as many examples as fit; else one.
        strides: kind -> by how much ids of that kind rise from one example of a row to the next. Those of images
            are rows of what the encoder gave for all images of the row; those of latents too, where they are yet to
            be found.
    """

    layout: layouts.Layout
    length: int
    most: int
    packed: bool
    strides: Mapping[int, int]

    @classmethod
    def of(
        cls,
        layout: layouts.Layout,
        instructions: Collection[str],
        length: int | None = None,
        packed: bool = False,
        latents_follow: bool = False,
    ) -> "Rows":
        """Rows for examples with these instructions.

        Args:
            length: places in a row; None is as many as the longest example takes.
            latents_follow: latents are found on the device, from pairs of frames.

        Raises:
            UserError: an example is longer than a row.
        """
        sizes = {text: layout.template(text).size for text in {"", *instructions}}
        longest = max(sizes, key=sizes.get)
        if length is None:
            length = sizes[longest]
            if packed:
                raise errors.UserError("data.packed=True needs --config.data.row_length, places in a row")
        if sizes[longest] > length:
            raise errors.UserError(
                f"instruction {longest!r} makes a sequence of {sizes[longest]} places and a row has {length}: "
                "raise data.row_length"
            )
        strides = {vocab.IMAGE: layout.num_image_tokens}
        strides |= {vocab.LATENT: layout.code_length} if latents_follow else {}
        most = max(1, length // min(sizes.values())) if packed else 1
        return cls(layout, length, most, packed, strides)

    @property
    def targets(self) -> dict[int, int]:
        """Kind -> most tokens of it that are to be predicted in a row."""
        return {kind: count * self.most for kind, count in self.layout.targets.items()}

    @property
    def identity(self) -> tuple[Any, ...]:
        """All that rows hang on, beside the layout."""
        return self.length, self.packed

    @property
    def window(self) -> int:
        """Examples at hand from which rows are filled."""
        return 8 * self.most

    def together(self, examples: Sequence[Example]) -> Batch:
        """One row [T] of `sequences`, and the arrays of its examples [most, ...], zero where there is none."""
        moved = [self._moved(example[SEQUENCE], nth) for nth, example in enumerate(examples)]
        row = sequences.row(moved, self.length)
        for key in examples[0].keys() - {SEQUENCE}:
            first = np.asarray(examples[0][key])
            row[key] = np.zeros((self.most, *first.shape), first.dtype)
            for nth, example in enumerate(examples):
                row[key][nth] = example[key]
        return row

    def alone(self, make: Callable[..., Example]) -> Callable[..., Batch]:
        """`make`, with each of its examples in a row of its own."""
        return lambda *args: self.together([make(*args)])

    def _moved(self, sequence: Tokens, nth: int) -> Tokens:
        """The `nth` sequence of a row: its images and latents are counted after those before it."""
        step = np.zeros(vocab.IMAGE + 1, np.int32)
        for kind, stride in self.strides.items():
            step[kind] = nth * stride
        return sequence._replace(tokens=sequence.tokens + step[sequence.kinds])
