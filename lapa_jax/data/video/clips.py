"""Recordings decoded once and written as RLDS, in parallel and resumable."""

import concurrent.futures
import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import tqdm

from lapa_jax import errors
from lapa_jax.data.stored import construction, writing
from lapa_jax.data.video import camera, cutting, recordings
from lapa_jax.data.video import settings as clip_settings
from lapa_jax.data.video import tally as tally_lib

Settings = clip_settings.Settings
_VERSION = "1.0.0"
_LAYOUT = 1  # to be raised when the same settings give other files
_METADATA = {"id": str, "file_path": str, "start": float}


def build(
    splits: Mapping[str, recordings.Recordings],
    out: str | Path,
    settings: Settings | None = None,
    *,
    recordings_per_shard: int | None = None,
    workers: int | None = None,
    on_error: str = "skip",
    shard_index: int = 0,
    shard_count: int = 1,
    progress: bool = True,
) -> Path:
    """Builds `OUT/NAME/1.0.0`, goes on with it after a kill, or returns it when it is finished.

    The files do not depend on `workers` and `shard_count`. Process i of N writes shards i, i + N, ...;
    the one that finds all shards there finishes the folder.

    Args:
        splits: split -> its recordings; all with the same name, rate, cameras and arrays.
        recordings_per_shard: None makes at least 64 shards of a split that has 64 recordings.
        workers: processes that decode; 0 uses this one, None takes one a core.
        on_error: "skip" counts recordings that cannot be decoded, "fail" stops at the first.

    Returns:
        The folder; it is finished when it holds `lapa.json`.

    Raises:
        UserError: the folder holds something else, a recording is bad and `on_error` is "fail", no clip
            is left of a split, or splits and settings do not fit each other.
    """
    settings = settings or Settings()
    if on_error not in ("skip", "fail"):
        raise errors.UserError(f"no on_error {on_error!r}; choose 'skip' or 'fail'")
    if shard_count < 1:
        raise errors.UserError(f"shard_count {shard_count} is no number of processes; give 1 or more")
    if not 0 <= shard_index < shard_count:
        raise errors.UserError(f"shard_index {shard_index} is outside 0..{shard_count - 1}")
    task = _task(splits, out, settings, recordings_per_shard, on_error)
    task.construction.claim()
    mine = [shard for i, shard in enumerate(task.shards) if i % shard_count == shard_index]
    todo = [shard for shard in mine if not task.construction.is_done(shard.name)]
    total, left = (sum(len(shard.chosen) for shard in shards) for shards in (mine, todo))
    bar = tqdm.tqdm(total=total, initial=total - left, desc=task.name, unit="recording", disable=not progress)
    with bar:
        for shard in _run(task, todo, os.cpu_count() if workers is None else workers):
            bar.update(len(shard.chosen))
    if all(task.construction.is_done(shard.name) for shard in task.shards):
        _finish(task)
    return task.construction.folder


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Part `index` of `count` of a split, and the numbers of its recordings."""

    split: str
    index: int
    count: int
    chosen: range

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}"


@dataclasses.dataclass(frozen=True)
class _Task:
    """What every worker knows; `source` stands for what all splits have in common."""

    splits: Mapping[str, recordings.Recordings]
    settings: Settings
    on_error: str
    shards: tuple[_Shard, ...]
    construction: construction.Construction

    @property
    def source(self) -> recordings.Recordings:
        return next(iter(self.splits.values()))

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def features(self) -> Any:
        images = {name: (self.settings.size, self.settings.size, 3) for name in self.source.cameras}
        return writing.episode_features(images, self.source.array_shapes, _METADATA)

    def write(self, shard: _Shard) -> None:
        if self.construction.is_done(shard.name):  # by a process that builds the same
            return
        tally, folder = tally_lib.Tally(), self.construction.folder
        path = writing.shard_path(folder, self.name, shard.split, shard.index, shard.count)
        try:
            records, size = writing.write_shard(path, self.features, self._examples(shard, tally))
            self.construction.done(shard.name, {"records": records, "bytes": size, "tally": tally.to_json()})
        except FileNotFoundError:
            if not self.construction.finished:  # and cleared, by that process
                raise

    def _examples(self, shard: _Shard, tally: tally_lib.Tally) -> Iterator[dict[str, Any]]:
        source = self.splits[shard.split]
        for i in shard.chosen:
            tally.counts["recordings"] += 1
            name = f"recording {i}"
            try:
                recording = source[i]
                name = recording.id
                clip_settings.check_recording(recording, source)
                for clip in cutting.clips(recording, self.settings, source.rate, tally):
                    tally.counts["clips without instruction"] += not clip.instruction
                    yield _example(clip)
                if self.on_error == "fail" and name in tally.damaged:
                    remedy = "repair or remove the file, or keep what is whole with data.on_damage='skip'"
                    raise errors.UserError(f"{tally.damaged[name]}; {remedy}")
            except errors.UserError as error:
                if self.on_error == "fail":
                    raise
                tally.bad[name] = str(error)


def _example(clip: cutting.Clip) -> dict[str, Any]:
    # File names need not be text; features must.
    path, name = (text.encode(errors="replace").decode() for text in (clip.path, clip.id))
    metadata = {"id": name, "file_path": path, "start": clip.start}
    # A robot's recording ends with its task; human video is cut anywhere.
    terminal = bool(clip.arrays)
    return writing.episode_example(clip.images, clip.arrays, clip.instruction, metadata, terminal)


def _task(
    splits: Mapping[str, recordings.Recordings],
    out: str | Path,
    settings: Settings,
    recordings_per_shard: int | None,
    on_error: str,
) -> _Task:
    if not splits:
        raise errors.UserError("no split to build; give at least one")
    source = next(iter(splits.values()))
    shards, plan = [], {
        "layout": _LAYOUT,
        "rate_hz": float(settings.rate or source.rate or 0),
        "settings": dataclasses.asdict(settings),
        "cameras": list(source.cameras),
        "arrays": {k: list(v) for k, v in source.array_shapes.items()},
        "splits": {},
    }  # fmt: skip
    for split, found in splits.items():
        clip_settings.check_source(split, found, source, settings)
        size = recordings_per_shard or min(128, -(-len(found) // 64))
        count = -(-len(found) // size)
        rows = [range(i * size, min((i + 1) * size, len(found))) for i in range(count)]
        shards += [_Shard(split, i, count, chosen) for i, chosen in enumerate(rows)]
        plan["splits"][split] = {
            "recordings": len(found), "fingerprint": found.fingerprint, "recordings_per_shard": size
        }  # fmt: skip
    folder = Path(out).expanduser().resolve() / source.name / _VERSION
    return _Task(dict(splits), settings, on_error, tuple(shards), construction.Construction(folder, plan))


def _run(task: _Task, shards: list[_Shard], workers: int) -> Iterator[_Shard]:
    """Writes the shards, and yields each when it is done."""
    if not workers or not shards:
        for shard in shards:
            task.write(shard)
            yield shard
        return
    # Spawned: they share no thread and no library's state with this process.
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(shards)), multiprocessing.get_context("spawn"), _start_worker, (task,)
    )
    try:
        futures = {pool.submit(_write, shard): shard for shard in shards}
        for future in concurrent.futures.as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenProcessPool as error:
        raise errors.UserError(
            "a process that decodes was killed, perhaps for want of memory; run again with fewer workers, "
            "and it goes on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker_task: _Task | None = None


def _start_worker(task: _Task) -> None:
    global _worker_task
    _worker_task = task
    if task.settings.filters:
        camera.one_thread()


def _write(shard: _Shard) -> None:
    _worker_task.write(shard)


def _finish(task: _Task) -> None:
    notes = task.construction.notes([shard.name for shard in task.shards])
    if task.construction.finished or notes is None:
        return
    tallies = {split: tally_lib.Tally() for split in task.splits}
    lengths = {split: [] for split in task.splits}
    for shard, note in zip(task.shards, notes, strict=True):
        tallies[shard.split].add(tally_lib.Tally.from_json(note["tally"]))
        lengths[shard.split].append((note["records"], note["bytes"]))
    for split, tally in tallies.items():
        for line in tally.warnings(split):
            logging.warning("%s: %s", task.name, line)
        if not tally.counts["clips"]:
            counts = ", ".join(f"{v} {k}" for k, v in sorted(tally.counts.items()) if v)
            raise errors.UserError(
                f"no clip is left of split {split!r} of {task.name} ({counts}); "
                f"remove {task.construction.folder} and build with other settings"
            )
    plan = task.construction.plan
    metadata = {
        "name": task.name,
        "rate_hz": plan["rate_hz"],
        "plan": plan,
        "report": {split: tally.report() for split, tally in tallies.items()},
    }
    writing.finish(task.construction.folder, task.features, lengths, metadata)
    task.construction.clear()
