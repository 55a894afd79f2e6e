"""What a contestant's process is given, and how long something took in it."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from laq_speed import sizes

LEARNING_RATE, BETAS, CLIP_NORM = 1e-4, (0.9, 0.99), 0.5
PRODUCT = ((2048, 1024), (1024, 2048))  # shapes of two matrices; how fast a library multiplies bounds all else


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


def timed(run: Callable[[], None], times: int) -> tuple[float, float]:
    """(seconds, seconds of processor time) of `times` calls."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        run()
    return time.perf_counter() - wall, time.process_time() - processor


def gflops(multiply: Callable[[], object], times: int = 50) -> float:
    """Of the product of two matrices of the shapes `PRODUCT`, in 1e9 a second."""
    timed(multiply, 3)
    (rows, inner), (_, columns) = PRODUCT
    return 2e-9 * rows * inner * columns * times / timed(multiply, times)[0]
