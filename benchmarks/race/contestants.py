"""Contestants in processes of their own, held to the same cores."""

import contextlib
import importlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from lapa_jax import errors

KEEP_MEMORY = {  # glibc gives large blocks back when they are freed, and the kernel then fills each page anew
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(2**26),
}


class Job(Protocol):
    """What a contestant is made of; can be pickled. `threads`: cores that the process is held to."""

    threads: int


class Contestant:
    """Calls of its methods run in its process; one at a time.

    Args:
        kind: "module.Class" of what is called, made in the process from the job.
    """

    def __init__(self, name: str, kind: str, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, (self._pipe, there) = name, context.Pipe()
        self._process = context.Process(target=_serve, args=(kind, job, there), daemon=True)
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
            raise errors.UserError(f"{self.name} ended: {why}; use a smaller batch") from None
        if not done:
            raise errors.UserError(f"{self.name}.{method} failed: {result}")
        return result

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(kind: str, job: Job, pipe: Any) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])  # before a library counts them
    module, _, name = kind.rpartition(".")
    built = None
    with contextlib.suppress(EOFError):
        while True:
            method, args = pipe.recv()
            try:
                built = built or getattr(importlib.import_module(module), name)(job)
                pipe.send((True, getattr(built, method)(*args)))
            except Exception as error:  # noqa: BLE001 - the other side tells the person
                pipe.send((False, f"{type(error).__name__}: {error}".splitlines()[0]))


@contextlib.contextmanager
def contestants(kinds: Mapping[str, str], job: Job, keep_memory: bool = True) -> Iterator[dict[str, Contestant]]:
    """Name -> contestant; started one after the other, each asked `about` first.

    Args:
        kinds: name -> "module.Class".
        keep_memory: their allocators keep freed blocks, glibc's KEEP_MEMORY.
    """
    environment = {"OMP_NUM_THREADS": str(job.threads), "JAX_PLATFORMS": "cpu"}
    environment |= KEEP_MEMORY if keep_memory else {}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # a spawned process takes ours over
    started = {}
    try:
        for name, kind in kinds.items():
            started[name] = Contestant(name, kind, job)
            started[name]("about")
        yield started
    finally:
        for contestant in started.values():
            contestant.end()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
