"""What a contestant's process is given."""

import dataclasses
from pathlib import Path

from laq_speed import sizes

LEARNING_RATE, BETAS, CLIP_NORM = 1e-4, (0.9, 0.99), 0.5


@dataclasses.dataclass(frozen=True)
class Job:
    """
    Attributes:
        size: a key of `sizes.SIZES`.
        batch: pairs.
        threads: cores that the process is held to.
        folder: where WEIGHTS is, or will be.
    """

    size: str
    batch: int
    threads: int
    folder: str

    @property
    def sizes(self) -> sizes.Sizes:
        return sizes.SIZES[self.size]

    @property
    def weights(self) -> Path:
        """Official keys and arrays, as npz; the first contestant that is asked writes them."""
        return Path(self.folder) / f"{self.size}.npz"
