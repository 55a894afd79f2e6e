"""Folders that are filled shard by shard from a dataset, by any number of processes, and go on after a crash.

What latent actions (`latents`) and encoded frames (`encoded`) have in common. A folder is whole once it holds the
file `Kind.done`, which is written last; `unfinished.json` marks one that can still be continued.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.stored import storage

UNFINISHED = "unfinished.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)

Progress = Callable[[int, int], None]
"""Hears of items that are done, and how many of them were made just now and not by an earlier call."""


def silent(done: int, made: int) -> None:
    """A `Progress` that nobody hears."""


class Shard(NamedTuple):
    """A file to be: its path, how many items it holds, and what writes it."""

    path: Path
    items: int
    write: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a folder holds, and what errors call it.

    Attributes:
        done: name of the file that is written last.
        content: what is in it.
        work: what makes it ("labelling").
        advice: how to get it ("label the episodes").
    """

    done: str
    content: str
    work: str
    advice: str

    def finished(self, directory: str | Path) -> bool:
        """Whether all shards are there."""
        return (Path(directory) / self.done).exists()

    def plan(self, directory: str | Path) -> dict[str, Any]:
        """What a finished folder was made from.

        Raises:
            UserError: nothing there, or not finished.
        """
        root = Path(directory)
        if self.finished(root):
            return json.loads((root / self.done).read_text())
        if (root / UNFINISHED).exists():
            raise errors.UserError(f"{self.work} in {root} is not finished; run it again and it continues")
        raise errors.UserError(f"no {self.content} at {root}; {self.advice} first")

    def fill(
        self,
        root: Path,
        plan: Mapping[str, Any],
        shards: Sequence[Shard],
        process_index: int,
        process_count: int,
        progress: Progress,
        found: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Writes the shards of this process that are not there yet: p, p + P, ...

        The process that sees all shards finishes the folder, and notes what `found` then says beside the plan.

        Raises:
            UserError: the folder is of another plan (names the key) or of none, or cannot be made.
        """
        self._claim(root, plan, shards)
        for shard in shards[process_index::process_count]:
            if shard.path.exists():
                progress(shard.items, 0)
            else:
                shard.write()
        if all(shard.path.exists() for shard in shards) and not self.finished(root):
            storage.write_json(root / self.done, {**plan, **found()})
            (root / UNFINISHED).unlink(missing_ok=True)

    def _claim(self, root: Path, plan: Mapping[str, Any], shards: Sequence[Shard]) -> None:
        for name in (self.done, UNFINISHED):
            if not (root / name).exists():
                continue
            found, wanted = json.loads((root / name).read_text()), json.loads(json.dumps(plan))
            if different := [key for key in wanted if found.get(key) != wanted[key]]:
                key = different[0]
                raise errors.UserError(
                    f"{root} holds {self.content} with {key} {found.get(key)!r}, not {wanted[key]!r}; "
                    "choose another folder"
                )
            return
        if left := [shard.path for shard in shards if shard.path.exists()]:
            raise errors.UserError(f"{left[0]} is there, and nothing says what it is of: remove {root}")
        storage.make_folder(root)
        storage.write_json(root / UNFINISHED, plan)


def folder(root: str | Path, split: str, mixture: episodes_lib.Mixture, member: int) -> Path:
    """Where what belongs to a member of a mixture is: a dataset alone has the split's folder to itself."""
    place = Path(root) / split
    return place if len(mixture.members) == 1 else place / f"{member}-{mixture.members[member].name}"


def parts(root: Path, stem: str, suffix: str, count: int, per_shard: int) -> dict[Path, range]:
    """Path of each shard -> which of `count` things are in it.

    Raises:
        UserError: `per_shard` is none.
    """
    if per_shard < 1:
        raise errors.UserError(f"{per_shard} {stem} a file: use 1 or more")
    starts = range(0, count, per_shard)
    paths = [root / f"{stem}-{i:05d}-of-{len(starts):05d}.{suffix}" for i in range(len(starts))]
    return {path: range(start, min(start + per_shard, count)) for path, start in zip(paths, starts, strict=True)}


def results(
    call: Callable[..., Any],
    read: Callable[[Sequence[Any]], tuple[np.ndarray, ...]],
    items: Sequence[Any],
    batch_size: int,
    num_threads: int,
    progress: Progress,
) -> Iterator[np.ndarray]:
    """`call(*read(items))`, batch by batch; `num_threads` read the next batches meanwhile.

    Every call gets `batch_size` rows, so that it compiles once: the last batch repeats an item, and rows of the
    result that belong to none are dropped. A call may return before its result is there, as those of jax do: the
    next one is made before it is waited for, so that a device computes while a result is written.

    Raises:
        UserError: the result has another number of rows.
    """
    batches = [items[i : i + batch_size] for i in range(0, len(items), batch_size)]
    padded = [[*batch, *batch[-1:] * (batch_size - len(batch))] for batch in batches]
    calls = (call(*inputs) for inputs in ahead(read, padded, num_threads))
    for batch, (found, _) in zip(batches, itertools.pairwise(itertools.chain(calls, [None])), strict=True):
        found = np.asarray(found)
        if found.ndim < 1 or len(found) != batch_size:
            raise errors.UserError(f"{batch_size} rows went in and an array of shape {found.shape} came out")
        progress(len(batch), len(batch))
        yield found[: len(batch)]


def ahead(read: Callable[[Any], Any], batches: Sequence[Any], num_threads: int) -> Iterator[Any]:
    """`read(batch)` of each, in order, at most `num_threads` + 1 of them ahead."""
    with concurrent.futures.ThreadPoolExecutor(max(num_threads, 1)) as pool:
        waiting = collections.deque()
        for batch in batches:
            waiting.append(pool.submit(read, batch))
            if len(waiting) > num_threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write; once the block has ended without an error, it is on the disk and stands at `path`.

    Raises:
        UserError: the disk is full.
    """
    for left in path.parent.glob(f".{path.name}.*.partial"):  # by a killed run; features are gigabytes
        left.unlink(missing_ok=True)
    partial = storage.partial_name(path)
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise errors.UserError(f"no room for {path}: free some and run it again, it continues") from error
    finally:
        partial.unlink(missing_ok=True)
