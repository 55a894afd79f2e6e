"""What a contestant's process is given."""

import dataclasses
from pathlib import Path

from vlm_speed import sizes

LEARNING_RATE, BETAS, CLIP_NORM = 1e-4, (0.9, 0.95), 1.0
BATCHES = (1, 16)
"""Prompts at a time, in generation."""


@dataclasses.dataclass(frozen=True)
class Job:
    """
    Attributes:
        size: a key of `sizes.SIZES`.
        rows: of a training batch.
        threads: cores that the process is held to.
        folder: where the weights are, or will be.
    """

    size: str
    rows: int
    threads: int
    folder: str

    @property
    def sizes(self) -> sizes.Sizes:
        return sizes.SIZES[self.size]

    @property
    def weights(self) -> Path:
        """A folder as of Hugging Face; the first contestant that is asked writes it."""
        return Path(self.folder) / self.size
