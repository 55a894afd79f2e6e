"""The rows of many episodes held by column: what statistics, checks and histograms are made from."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tqdm

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib

_BLOCK = 512  # episodes that are read as one job
# Episodes from which processes pay for their start: reading one takes 40 to 230 us of Python, which
# threads only take turns at.
_MANY = 20_000


@dataclasses.dataclass(frozen=True)
class Columns(Sequence):
    """N rows of A values as float32: 4 * N * A bytes, and 4 * N more for each column that is asked for.

    Attributes:
        blocks: float32[A, n], episode after episode.
        ends: int64[E], rows up to the end of each episode.
    """

    blocks: tuple[np.ndarray, ...]
    ends: np.ndarray

    def __len__(self) -> int:
        """A, the number of columns; 0 where there are no rows."""
        return self.blocks[0].shape[0] if self.blocks else 0

    @property
    def rows(self) -> int:
        """N."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, column: int) -> np.ndarray:
        """float32[N], a copy."""
        if not -len(self) <= column < len(self):
            raise IndexError(f"column {column} of {len(self)}")
        return np.concatenate([block[column] for block in self.blocks])

    def place(self, row: int) -> tuple[int, int]:
        """(episode, step) of a row."""
        episode = int(np.searchsorted(self.ends, row, side="right"))
        return episode, int(row - (self.ends[episode - 1] if episode else 0))

    def finite(self) -> np.ndarray:
        """bool[N]: rows whose values are all finite."""
        return np.concatenate([np.isfinite(block).all(axis=0) for block in self.blocks] or [np.zeros(0, bool)])


def gather(trajectories: Sequence[np.ndarray], workers: int | None = None) -> Columns:
    """Reads every episode once.

    Args:
        trajectories: [T, ...] each; what follows T is taken as one row.
        workers: processes that read; 0 reads here, None takes one a core where there are many episodes to
            read from a source.

    Raises:
        UserError: episodes that do not have the same number of values a step.
    """
    if workers is None:
        many = isinstance(trajectories, episodes_lib.Rows) and len(trajectories) >= _MANY
        workers = (os.cpu_count() or 1) if many else 0
    jobs = [range(i, min(i + _BLOCK, len(trajectories))) for i in range(0, len(trajectories), _BLOCK)]
    read = list(_read(trajectories, jobs, min(workers, len(jobs))))
    lengths = [length for _, lengths in read for length in lengths]
    blocks = tuple(block for block, _ in read if block.shape[1])
    _check_widths(block.shape[0] for block in blocks)
    return Columns(blocks, np.cumsum(np.asarray(lengths, np.int64)))


def _read(
    trajectories: Sequence[np.ndarray], jobs: Sequence[range], workers: int
) -> Iterator[tuple[np.ndarray, list[int]]]:
    if workers < 2:
        yield from map(functools.partial(_block, trajectories), jobs)
        return
    # Spawned: jax and its threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (trajectories,)) as pool:
        yield from tqdm.tqdm(pool.map(_worker_block, jobs), desc="read", total=len(jobs), unit_scale=_BLOCK)


def _block(trajectories: Sequence[np.ndarray], episodes: range) -> tuple[np.ndarray, list[int]]:
    """(float32[A, n], rows of each of the episodes)."""
    found = [np.asarray(trajectories[episode]) for episode in episodes]
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is looked for
        rows = [row.reshape(len(row), -1).astype(np.float32, copy=False) for row in found if len(row)]
    _check_widths(row.shape[1] for row in rows)
    block = np.ascontiguousarray(np.concatenate(rows).T) if rows else np.zeros((0, 0), np.float32)
    return block, [len(row) for row in found]


def _check_widths(widths: Iterable[int]) -> None:
    if len(found := set(widths)) > 1:
        raise errors.UserError(f"episodes have {min(found)} and {max(found)} values a step; repair the dataset")


_worker_trajectories: Sequence[np.ndarray] = ()


def _start_worker(trajectories: Sequence[np.ndarray]) -> None:
    global _worker_trajectories
    _worker_trajectories = trajectories


def _worker_block(episodes: range) -> tuple[np.ndarray, list[int]]:
    return _block(_worker_trajectories, episodes)
