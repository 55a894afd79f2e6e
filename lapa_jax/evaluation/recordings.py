"""Episodes of a dataset that can be played again: how each began, what was done, what was seen."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import rlds

_METADATA = "episode_metadata/"


@dataclasses.dataclass(frozen=True)
class Recording:
    """One episode.

    Attributes:
        number: of the episode in its split.
        family, seed: how it began, see `envs`.
        success: what was recorded; True where the dataset does not say, as demonstrations do.
        actions: float32[T, A], in the environment's units.
        states: arrays float32[T, D] of what the robot felt, by name.
        image: step -> uint8[H, W, 3], read when it is asked for.
    """

    number: int
    family: str
    seed: int
    success: bool
    instruction: str
    actions: np.ndarray
    states: Mapping[str, np.ndarray]
    image: Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recordings:
    """The episodes of a split of an RLDS dataset whose writer kept `family` and `seed` of each.

    Attributes:
        image_size: side of the stored images.
    """

    episodes: episodes_lib.Episodes
    families: Sequence[str]
    seeds: np.ndarray
    successes: np.ndarray

    @classmethod
    def open(cls, directory: str | pathlib.Path, split: str, cache: str | None = None) -> "Recordings":
        """
        Raises:
            UserError: no such dataset or split, or one that does not say how its episodes began.
        """
        dataset = rlds.open_dataset(directory)
        columns = {column.name for column in dataset.columns if column.kind in ("array", "text")}
        missing = [name for name in ("family", "seed") if _METADATA + name not in columns]
        if missing:
            raise errors.UserError(
                f"{dataset.directory} does not keep the {' and the '.join(missing)} of its episodes, so none can "
                f"begin as it began: its recorder has to write {', '.join(_METADATA + name for name in missing)}"
            )
        index = rlds.open_index(dataset, split, cache)
        episodes = rlds.open_episodes(directory, split, "robot", cache=cache, hold_out=False)
        there = _METADATA + "success" in columns
        return cls(
            episodes,
            index.texts(_METADATA + "family"),
            index.mapped(_METADATA + "seed").reshape(-1),
            index.mapped(_METADATA + "success").reshape(-1) if there else np.ones(len(episodes), bool),
        )

    @property
    def image_size(self) -> int:
        return self.episodes.image_shape[0]

    def spread(self, count: int) -> Iterator[Recording]:
        """`count` episodes, or all if there are fewer, evenly over the split."""
        numbers = np.linspace(0, len(self.episodes) - 1, min(count, len(self.episodes))).round().astype(int)
        return map(self._one, numbers.tolist())

    def _one(self, number: int) -> Recording:
        episodes = self.episodes
        states = {name: episodes[name][number] for name in episodes.arrays if name != "action"}
        return Recording(
            number,
            self.families[number],
            int(self.seeds[number]),
            bool(self.successes[number]),
            episodes.instruction(number),
            episodes["action"][number],
            states,
            functools.partial(episodes.frame, number),
        )
