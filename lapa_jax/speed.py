"""How fast a run is: when devices finish their steps, what they waited for, and what of their peak they reach.

A step is dispatched long before it is computed, so the times of calls say little: a program that reads for 0.9 s
and computes for 1 s a step does both at once, and loses nothing. Hence a thread waits for the loss of each step and
notes when it is there. A line of the log is about the time from the end of one step to the end of another. In it
devices wait for data from the end of a step, or from when the next batch is asked for if that is later, until that
batch is there.
"""

import collections
import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from lapa_jax import tracing

GIB = 2**30


class Counts(NamedTuple):
    """What a batch holds.

    Attributes:
        samples: examples: segments of rows that several share, else rows.
        tokens: places that hold one; 0 where a batch has no tokens.
        places: of all rows, padding included.
        squares: sum over segments of their length squared.
    """

    samples: float = 0.0
    tokens: float = 0.0
    places: float = 0.0
    squares: float = 0.0


def count(batch: Mapping[str, np.ndarray]) -> Counts:
    """Counts of a batch on the host, so that no device is asked."""
    segments = batch.get("segments")
    if segments is None:
        return Counts(samples=_rows(batch))
    most = int(segments.max(initial=0)) + 1
    numbered = segments + most * np.arange(len(segments))[:, None]
    lengths = np.bincount(numbered.ravel(), minlength=most * len(segments)).reshape(-1, most)[:, 1:].astype(float)
    sums = np.sum(lengths > 0), lengths.sum(), segments.size, np.square(lengths).sum()
    return Counts(*map(float, sums))


class Needs(Protocol):
    """What MFU divides; see `model_flops.Needs`."""

    def shares(self, steps: int, counts: Counts, seconds: float) -> dict[str, float]: ...


class Taken(NamedTuple):
    """One step.

    Attributes:
        asked, arrived: when its batch was, seconds of the clock.
        counts: of this process's rows.
        handed: when the devices were told of it.
        apart: seconds before it that belong to no step.
        finished: when it was computed.
    """

    asked: float
    arrived: float
    counts: Counts
    handed: float
    apart: float
    finished: concurrent.futures.Future


def finished(loss: Any) -> float:
    """Waits for an array, and says when it was there."""
    jax.block_until_ready(loss)
    return time.perf_counter()


class Speedometer:
    """Measures a training loop, a line of the log at a time; a context manager.

    Lines are sums over all processes, and must be asked for by all of them at the same step.

    Args:
        needs: (state, batch) -> what a step needs; None: there is no peak to compare with, and nothing is counted.
        trace: which steps are profiled.
        clock: seconds.
        finished: waits for the loss of a step, and says when it was there, by the same clock.
    """

    def __init__(
        self,
        needs: Callable[[Any, Any], Needs] | None = None,
        trace: tracing.Trace = tracing.OFF,
        clock: Callable[[], float] = time.perf_counter,
        finished: Callable[[Any], float] = finished,
    ) -> None:
        self._count_needs, self._needs = needs, None
        self._trace, self._clock, self._finished = trace, clock, finished
        self._waiting: queue.SimpleQueue = queue.SimpleQueue()
        self._taken: collections.deque[tuple[int, Taken]] = collections.deque()
        self._next: tuple[float, float, Counts, int] | None = None
        self._loss, self._apart, self._step = None, 0.0, 0
        self._since: float | None = None

    def __enter__(self) -> "Speedometer":
        self._begun = self._clock()
        _everywhere(Counts(), (0.0,) * 3)  # compiled now, not in the middle of a later line
        # A daemon: it may wait for a device that never answers, and must not keep the program from ending.
        threading.Thread(target=self._watch, name="speedometer", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._trace.close()

    def begin(self, step: int) -> "Speedometer":
        """The next step is the one after `step`."""
        self._step = step
        return self

    def next(self, iterator: Iterator[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The next batch, and how long it took."""
        if self._trace.begins(self._step + 1):
            self._between(self._trace.start)
        asked = self._clock()
        with jax.profiler.TraceAnnotation("wait for data"):
            batch = next(iterator)
        self._next = asked, self._clock(), count(batch), _rows(batch)
        return batch

    def run(self, step: Callable, state: Any, batch: Any) -> tuple[Any, Any]:
        """`step(state, batch)`, which is noted."""
        if self._count_needs is not None:
            self._needs, self._count_needs = self._count_needs(state, batch), None
        self._step += 1
        handed = self._clock()
        with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
            state, metrics = step(state, batch)
        self._loss = metrics["loss"]
        asked, arrived, counts, rows = self._next
        own = _rows(batch) / (rows * jax.process_count())  # less than 1 where processes have the same rows
        counts = Counts(*(own * each for each in counts))
        taken = Taken(asked, arrived, counts, handed, self._apart, concurrent.futures.Future())
        self._apart = 0.0
        self._taken.append((self._step, taken))
        self._waiting.put((taken.finished, self._loss))
        if self._trace.ends(self._step):
            self._between(self._trace.stop)
        return state, metrics

    def line(self, step: int) -> dict[str, float]:
        """What is logged of the steps since the last line up to `step`, once that is computed.

        The first line has `first_step_seconds`: compilation is in it, and in no other. In later ones:
        `steps_per_second`, `samples_per_second`, and the shares of the time that devices stood idle for data
        (`data_wait`) and for what else the host did (`host_wait`: saving, placing batches), of the process where it
        was longest.
        Where they apply: `tokens_per_second`, `tokens_per_second_padded` (all places), `mfu`, `mfu_padded`, and
        `memory_peak_gib` of the fullest device, since the program began.
        """
        taken = []
        while self._taken and self._taken[0][0] <= step:
            taken.append(self._taken.popleft()[1])
        times = [one.finished.result() for one in taken]
        since, self._since = self._since, times[-1]
        if since is None:
            return {"first_step_seconds": self._since - self._begun, **_memory_of(_memory())}
        seconds = max(times[-1] - since - sum(one.apart for one in taken), 1e-9)
        counts = np.sum([one.counts for one in taken], axis=0)
        counts, (data, host, memory) = _everywhere(counts, (*_waits(taken, [since, *times[:-1]]), _memory()))
        waits = {"data_wait": data / seconds, "host_wait": host / seconds}
        return self._rates(len(taken), Counts(*counts), seconds) | waits | _memory_of(memory)

    def _rates(self, steps: int, counts: Counts, seconds: float) -> dict[str, float]:
        rates = {"steps_per_second": steps / seconds, "samples_per_second": counts.samples / seconds}
        if counts.places:
            rates |= {"tokens_per_second": counts.tokens / seconds}
            rates |= {"tokens_per_second_padded": counts.places / seconds}
        return rates | ({} if self._needs is None else self._needs.shares(steps, counts, seconds))

    def _between(self, do: Callable[[], None]) -> None:
        """Does something while no step runs; its time is nobody's."""
        if self._loss is not None:
            jax.block_until_ready(self._loss)
        start = self._clock()
        do()
        self._apart += self._clock() - start

    def _watch(self) -> None:
        for future, loss in iter(self._waiting.get, None):
            try:
                future.set_result(self._finished(loss))
            except Exception as error:  # what a device has to say is for the one who asks
                future.set_exception(error)


def _rows(batch: Mapping[str, Any]) -> int:
    return len(next(iter(batch.values())))


def _waits(taken: Sequence[Taken], free: Sequence[float]) -> tuple[float, float]:
    """Seconds that devices stood idle for data, and for the rest of what the host did.

    Args:
        free: when they were done with the step before.
    """
    data = [max(0.0, one.arrived - max(one.asked, end)) for one, end in zip(taken, free, strict=True)]
    idle = [max(0.0, one.handed - end - one.apart) for one, end in zip(taken, free, strict=True)]
    return sum(data), max(0.0, sum(idle) - sum(data))


def _memory() -> float:
    """Bytes; 0 where devices do not tell."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return float(max(one.get("peak_bytes_in_use", 0) for one in stats))


def _memory_of(peak: float) -> dict[str, float]:
    return {"memory_peak_gib": float(peak) / GIB} if peak else {}


def _everywhere(sums: Sequence[float], peaks: Sequence[float]) -> tuple[list[float], list[float]]:
    """Over all processes: sums, and the largest. They travel as float32."""
    mine = np.asarray([*sums, *peaks], np.float32)
    found = mine[None] if jax.process_count() == 1 else np.asarray(multihost_utils.process_allgather(mine))
    return found[:, : len(sums)].sum(axis=0).tolist(), found[:, len(sums) :].max(axis=0).tolist()
