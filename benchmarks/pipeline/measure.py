"""One contestant in one process: `python -m pipeline.measure JOB` does a job and prints its result as JSON."""

import dataclasses
import importlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import contestants, memory

_WARM_UP = 6  # batches, at least: more than any contestant reads ahead
_WINDOWS, _TENTHS = 3, 10
_Batches = Any


def _speed(job: contestants.Job) -> dict[str, Any]:
    """Time to the first batch, then pairs/s in each window."""
    batches, first = _begin(job)
    _take(batches, job, job.seconds / 2, _WARM_UP)
    elsewhere = memory.Elsewhere()
    windows = [_take(batches, job, job.seconds) for _ in range(_WINDOWS)]
    return {
        "first_batch_s": first,
        "windows": windows,
        "pairs_per_s": statistics.median(windows),
        "cores_busy_elsewhere": elsewhere.cores(),
    }


def _first(job: contestants.Job) -> dict[str, Any]:
    """Time to the first batch, from the position of the job."""
    return {"first_batch_s": _begin(job)[1]}


def _epoch(job: contestants.Job) -> dict[str, Any]:
    """Memory over an epoch: the median of each tenth, and the peak."""
    (batches, _), total = _begin(job), max(int(job.pairs * job.share / job.batch), _TENTHS)
    _take(batches, job, 0.0, _WARM_UP)
    samples: list[list[int]] = [[] for _ in range(_TENTHS)]
    for taken in range(total):
        next(batches)
        samples[taken * _TENTHS // total].append(memory.resident())
    tenths = [statistics.median(tenth) / 1e6 for tenth in samples]
    peak = max(memory.peak(), *map(max, samples)) / 1e6
    return {"tenths_mb": tenths, "peak_mb": peak, "max_over_min": max(tenths) / min(tenths)}


def _index(job: contestants.Job) -> dict[str, Any]:
    """A new index of a split."""
    from lapa_jax.data import rlds
    from pipeline import dataset

    found = rlds.open_dataset(dataset.directory(Path(job.folder), "tfrecord"))
    begun = time.perf_counter()
    index = rlds.open_index(found, job.split, job.cache, workers=job.cores, progress=False)
    seconds = time.perf_counter() - begun
    size = sum(path.stat().st_size for path in Path(index.folder).iterdir())
    read = sum(os.path.getsize(path) for path in index.paths)
    counts = {"records_per_s": len(index), "frames_per_s": index.num_steps, "mb_per_s": read / 1e6}
    rates = {name: count / seconds for name, count in counts.items()}
    return {"seconds": seconds, "index_mb": size / 1e6, **rates}


TASKS: dict[str, Callable[[contestants.Job], dict[str, Any]]] = {
    "speed": _speed,
    "first": _first,
    "epoch": _epoch,
    "index": _index,
}


def _begin(job: contestants.Job) -> tuple[_Batches, float]:
    """(batches after the first, seconds to the first)."""
    contestant = contestants.CONTESTANTS[job.contestant]
    importlib.import_module(contestant.module)
    begun = time.perf_counter()
    batches = iter(contestant.batches(job))
    next(batches)
    return batches, time.perf_counter() - begun


def _take(batches: _Batches, job: contestants.Job, seconds: float, at_least: int = 1) -> float:
    """Pairs a second over that time."""
    begun, elapsed = time.perf_counter(), 0.0
    for count in itertools.count(1):
        next(batches)
        elapsed = time.perf_counter() - begun
        if elapsed >= seconds and count >= at_least:
            break
    return count * job.batch / elapsed


def main() -> None:
    job = contestants.Job(**json.loads(sys.argv[1]))
    # Before any library looks how many cores there are.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-job.cores :])
    with tempfile.TemporaryDirectory(dir=job.folder) as new:
        print(json.dumps(TASKS[job.task](dataclasses.replace(job, cache=job.cache or new))))


if __name__ == "__main__":
    main()
