"""Contestants in processes of their own: first that they are the same network, then who is faster."""

import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lapa_jax import errors
from laq_speed.job import Job
from pipeline import memory

CLASSES = {"ours": "ours.Ours", "eager": "theirs.Eager", "compiled": "theirs.Compiled"}
TASKS = ("train", "label")
BASELINE = "eager"
_STEPS = 3
_TOLERANCE = np.array([1e-4, 1e-3])  # of losses and gradient norms; sums of 3e8 float32 squares differ more
KEEP_MEMORY = {  # glibc gives large blocks back when they are freed, and the kernel then fills each page anew
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(2**26),
}


class Contestant:
    """Calls of its methods run in its process; one at a time."""

    def __init__(self, name: str, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, (self._pipe, there) = name, context.Pipe()
        self._process = context.Process(target=_serve, args=(name, job, there), daemon=True)
        self._process.start()
        there.close()

    def __call__(self, method: str, *args: Any) -> Any:
        """
        Raises:
            UserError: it ended, or the method raised; says why.
        """
        try:
            self._pipe.send((method, args))
            done, result = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            why = "killed, out of memory?" if self._process.exitcode == -9 else f"status {self._process.exitcode}"
            raise errors.UserError(f"{self.name} ended: {why}; use a smaller --batch_sizes") from None
        if not done:
            raise errors.UserError(f"{self.name}.{method} failed: {result}")
        return result

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(name: str, job: Job, pipe: Any) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])  # before a library counts them
    module, kind = CLASSES[name].split(".")
    built = None
    with contextlib.suppress(EOFError):
        while True:
            method, args = pipe.recv()
            try:
                built = built or getattr(importlib.import_module(f"laq_speed.{module}"), kind)(job)
                pipe.send((True, getattr(built, method)(*args)))
            except Exception as error:  # noqa: BLE001 - the other side tells the person
                pipe.send((False, f"{type(error).__name__}: {error}".splitlines()[0]))


@contextlib.contextmanager
def contestants(names: list[str], job: Job, keep_memory: bool) -> Iterator[dict[str, Contestant]]:
    """Starts them one after the other, the baseline first: it writes the weights."""
    environment = {"OMP_NUM_THREADS": str(job.threads), "JAX_PLATFORMS": "cpu"}
    environment |= KEEP_MEMORY if keep_memory else {}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # a spawned process takes ours over
    started = {}
    try:
        for name in sorted(names, key=lambda name: name != BASELINE):
            started[name] = Contestant(name, job)
            started[name]("about")
        yield started
    finally:
        for contestant in started.values():
            contestant.end()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def check(competing: Mapping[str, Contestant]) -> dict[str, Any]:
    """That all give the codes of ours, and its losses and gradient norms over training steps.

    Returns:
        How many codes occur, and name -> largest relative difference of loss and of gradient norm.

    Raises:
        UserError: they differ.
    """
    ours = competing["ours"]
    codes, noise = ours("codes"), ours("noise", _STEPS)
    losses = np.array(ours("losses", _STEPS))
    found: dict[str, Any] = {"codes": len(np.unique(codes))}
    for name in competing.keys() - {"ours"}:
        share = np.mean(codes != competing[name]("codes"))
        if share:
            raise errors.UserError(f"{share:.1%} of the codes of {name} are not those of ours: no comparison")
        others = np.array(competing[name]("losses", noise))
        apart = np.max(np.abs(others / losses - 1), axis=0)
        if not np.all(apart < _TOLERANCE):
            raise errors.UserError(
                f"(loss, gradient norm) {others.tolist()} of {name}, {losses.tolist()} of ours: another network"
            )
        found[name] = apart.tolist()
    return found


@dataclasses.dataclass(frozen=True)
class Speeds:
    """Of one task.

    Attributes:
        pairs_per_s: name -> of each round.
        per_core: name -> the same by processor time, which other work on the machine disturbs less.
        cores_busy_elsewhere: meanwhile, with the work of others.
    """

    pairs_per_s: Mapping[str, list[float]]
    per_core: Mapping[str, list[float]]
    cores_busy_elsewhere: float

    def ratios(self, name: str, to: str = BASELINE) -> list[float]:
        """Round by round."""
        return [a / b for a, b in zip(self.pairs_per_s[name], self.pairs_per_s[to], strict=True)]


def race(competing: Mapping[str, Contestant], task: str, job: Job, rounds: int, seconds: float) -> Speeds:
    """All in turn, as often as there are rounds; who was last begins the next one.

    Args:
        seconds: for all of it; at least one step each is run, and rounds that would begin later are not.
    """
    begun, elsewhere = time.perf_counter(), memory.Elsewhere()
    slot = seconds / (rounds + 1) / len(competing)
    steps = {name: max(round(slot / one(task, 1)[0]), 1) for name, one in competing.items()}  # warms up, too
    wall, processor = ({name: [] for name in competing} for _ in range(2))
    for turn in range(rounds):
        if turn and time.perf_counter() - begun > seconds:
            break
        for name in list(competing)[:: -1 if turn % 2 else 1]:
            took = competing[name](task, steps[name])
            for found, one in zip((wall, processor), took, strict=True):
                found[name].append(job.batch * steps[name] / one)
    return Speeds(wall, processor, elsewhere.cores())


def summary(values: list[float]) -> tuple[float, float, float]:
    """(median, least, most)."""
    return statistics.median(values), min(values), max(values)
