"""Finished episodes, and which of them are filmed."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from lapa_jax.evaluation import films

OUTCOMES = {True: "success", False: "failure"}


@dataclasses.dataclass(frozen=True)
class Episode:
    """One finished episode: how it began, how it ended, steps, seconds on the clock.

    Attributes:
        film: file of its film below the folder of the films, if it has one.
    """

    family: str
    seed: int
    instruction: str
    success: bool
    length: int
    seconds: float
    film: str | None = None


class Filming:
    """The first episodes of each family and outcome are filmed, as they end.

    Args:
        folder: gets the films.
        each: how many of a family and an outcome.
        showcase: gets `success.gif` and `failure.gif`, the longest filmed, which shows most; None: not written.
        done: episodes that a run before this one has played.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        each: int,
        showcase: pathlib.Path | None = None,
        done: Iterable[Episode] = (),
    ) -> None:
        self._folder, self._each, self._showcase = folder, each, showcase
        self._suffix, self._filmed = films.suffix(), collections.Counter()
        self._longest: dict[bool, Episode] = {}
        for episode in done:
            if episode.film:
                self._note(episode)

    def wants(self, family: str) -> bool:
        """Whether an episode that begins now may be filmed."""
        return any(self._filmed[family, outcome] < self._each for outcome in OUTCOMES)

    def choose(self, episode: Episode) -> tuple[Episode, list[pathlib.Path]]:
        """The episode with the name of its film, and the files to be written; as it is, and none."""
        if self._filmed[episode.family, episode.success] >= self._each:
            return episode, []
        outcome = OUTCOMES[episode.success]
        name = re.sub(r"[^\w.-]", "-", f"{outcome}-{episode.family}-{episode.seed}")
        episode = dataclasses.replace(episode, film=f"{name}{self._suffix}")
        paths = [self._folder / episode.film]
        if self._note(episode) and self._showcase is not None:
            paths.append(self._showcase / f"{outcome}.gif")
        return episode, paths

    def shown(self, policy: str) -> dict[str, Any]:
        """What `results.json` says of the showcase."""
        return {
            OUTCOMES[success]: {
                "file": f"{OUTCOMES[success]}.gif", "instruction": one.instruction, "policy": policy,
            }
            for success, one in sorted(self._longest.items(), reverse=True)
        }  # fmt: skip

    def _note(self, episode: Episode) -> bool:
        """Counts a film; whether it is the longest of its outcome so far."""
        self._filmed[episode.family, episode.success] += 1
        before = self._longest.get(episode.success)
        if before is not None and before.length >= episode.length:
            return False
        self._longest[episode.success] = episode
        return True
