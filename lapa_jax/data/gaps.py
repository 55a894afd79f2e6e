"""The gap between the two frames of a pair: seconds in the config, steps in a dataset."""

import dataclasses
import logging
import math

import numpy as np

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import transforms

PAST_END = ("exclude", "repeat")
_FAR = 0.25  # share by which rounding to steps may change the gap without a word


@dataclasses.dataclass(frozen=True)
class Steps:
    """A gap in the steps of one dataset.

    Attributes:
        low: smallest gap, at least 1.
        high: largest gap; a pair draws one from low..high that its episode has room for.
        past_end: "exclude" leaves out pairs that would run past the end of an episode; "repeat" pairs
            them with its last frame (as the official LAQ does, so that some gaps are shorter, down to 0).
    """

    low: int
    high: int
    past_end: str = "exclude"

    def index(self, episodes: episodes_lib.Episodes) -> transforms.StepIndex:
        """The steps that begin a pair.

        Raises:
            UserError: no episode is long enough.
        """
        index = transforms.StepIndex(episodes.lengths, self.low if self.past_end == "exclude" else 0)
        if not len(index):
            longest = int(episodes.lengths.max(initial=0))
            raise errors.UserError(
                f"{episodes.name}: no episode is longer than the gap of {self.low} steps (the longest has "
                f"{longest}); use a smaller data.gap"
            )
        return index

    def later(self, step: int, length: int, rng: np.random.Generator) -> int:
        """The second step of the pair that begins at `step` of an episode of `length` steps."""
        room = length - 1 - step
        high = self.high if self.past_end == "repeat" else min(self.high, room)
        gap = self.low if high == self.low else int(rng.integers(self.low, high + 1))
        return step + min(gap, room)


@dataclasses.dataclass(frozen=True)
class Gap:
    """Seconds between the frames of a pair.

    Attributes:
        seconds: the gap, or the smallest one.
        longest: the largest gap, drawn evenly with the others; None is always `seconds`.
        past_end: see `Steps`.
    """

    seconds: float
    longest: float | None = None
    past_end: str = "exclude"

    def __post_init__(self):
        if not 0 < self.seconds < math.inf:
            raise errors.UserError(
                f"data.gap {self.seconds} s pairs a frame with itself, its past or nothing; use more than 0"
            )
        if self.longest is not None and not self.seconds <= self.longest < math.inf:
            raise errors.UserError(
                f"data.longest_gap {self.longest} s is not a time from data.gap {self.seconds} s on"
            )
        if self.past_end not in PAST_END:
            raise errors.UserError(f"data.past_end {self.past_end!r}: choose one of {', '.join(PAST_END)}")

    def steps(self, episodes: episodes_lib.Episodes) -> Steps:
        """The gap in the steps of these episodes.

        Raises:
            UserError: their rate is not known.
        """
        low = episodes.steps_of(self.seconds)
        high = low if self.longest is None else episodes.steps_of(self.longest)
        if abs(low / episodes.rate - self.seconds) > _FAR * self.seconds:
            logging.warning(
                "%s has %g steps a second: a gap of %g s becomes %d steps, %.3g s",
                episodes.name,
                episodes.rate,
                self.seconds,
                low,
                low / episodes.rate,
            )
        return Steps(low, high, self.past_end)
