"""Slots in this process or in others, behind one call: commands to some of them, an answer of each.

gymnasium's AsyncVectorEnv would be the library for it. But it has a process for each environment, which imports the
main program and so jax; a message a step; no way to say which episode hung; and no place for an expert that reads
the state. Here a few processes hold all the environments, and a message is a chunk of actions or a new episode.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

from lapa_jax import errors
from lapa_jax.evaluation.closed_loop import slots, worker, worlds

Commands = Mapping[int, tuple[str, tuple[Any, ...]]]
"""slot -> (method of `Slot`, its arguments)"""

_GRACE = 5.0  # seconds that a worker has to end by itself


class Pool(Protocol):
    """Slots 0..size-1; a context manager."""

    size: int

    def ask(self, commands: Commands) -> dict[int, Any]:
        """The answer of each slot that gets a command, in the order of the commands.

        Raises:
            UserError: an environment failed, its process died or does not answer; names the episode.
        """
        ...


def open_pool(world: worlds.World, size: int, num_processes: int, timeout: float) -> "Pool":
    """
    Args:
        size: episodes that are played at a time.
        num_processes: that hold the environments; 0: this one does.
        timeout: seconds within which a process has to give one answer. This process cannot be timed.

    Raises:
        UserError: see `check`.
    """
    check(size, num_processes, timeout)
    return Processes(world, size, min(num_processes, size), timeout) if num_processes else Here(world, size)


def check(size: int, num_processes: int, timeout: float) -> None:
    """
    Raises:
        UserError: one of the numbers makes no sense.
    """
    if size < 1 or num_processes < 0 or not timeout > 0:
        raise errors.UserError(
            f"batch_size={size}, num_processes={num_processes}, timeout={timeout}: "
            "give 1 or more, 0 or more, and a time above 0"
        )


class _Named:
    """Knows which episode each slot plays, for errors."""

    def __init__(self, world: worlds.World, size: int) -> None:
        self.size, self._world = size, world
        self._starts: dict[int, worlds.Start] = {}

    def _note(self, commands: Commands) -> None:
        begun = {slot: arguments[0] for slot, (method, arguments) in commands.items() if method == "begin"}
        self._starts |= begun

    def _error(self, slot: int, reason: str) -> errors.UserError:
        return errors.UserError(f"environment {self._world.name}, {self._starts[slot]}: {reason}")

    def _failed(self, slot: int, failure: worker.Failure) -> errors.UserError:
        if failure.trace:
            print(failure.trace, file=sys.stderr, end="")
        return self._error(slot, failure.reason)


class Here(_Named):
    """All slots in this process, one after the other."""

    def __init__(self, world: worlds.World, size: int) -> None:
        super().__init__(world, size)
        self._slots = [slots.Slot(world) for _ in range(size)]

    def ask(self, commands: Commands) -> dict[int, Any]:
        self._note(commands)
        return {slot: self._one(slot, *command) for slot, command in commands.items()}

    def _one(self, slot: int, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(self._slots[slot], method)(*arguments)
        except Exception as error:
            raise self._failed(slot, worker.Failure.of(error)) from error

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.close()


class Processes(_Named):
    """Slots dealt out over worker processes, which all work at the same time."""

    def __init__(self, world: worlds.World, size: int, num_processes: int, timeout: float) -> None:
        super().__init__(world, size)
        self._timeout = timeout
        self._workers = [_Worker(world, range(i, size, num_processes)) for i in range(num_processes)]

    def ask(self, commands: Commands) -> dict[int, Any]:
        self._note(commands)
        mine = [{slot: commands[slot] for slot in one.slots if slot in commands} for one in self._workers]
        # One message each before any answer is read: a worker is waiting for it, so that no pipe fills up.
        for one, part in zip(self._workers, mine, strict=True):
            if part:
                one.tell([(slot, *command) for slot, command in part.items()])
        answers: dict[int, Any] = {}
        for one, part in zip(self._workers, mine, strict=True):
            for slot in part:
                answers[slot] = self._answer(one, slot)
        return {slot: answers[slot] for slot in commands}

    def _answer(self, one: "_Worker", slot: int) -> Any:
        try:
            if not one.connection.poll(self._timeout):
                raise self._error(
                    slot,
                    f"no answer of its process within {self._timeout:g} s; it was stopped. If it is only slow, "
                    "raise --config.timeout; what is finished is kept",
                )
            answer = one.connection.recv()
        except (EOFError, OSError) as error:
            raise self._error(
                slot, f"its process died ({one.ended()}); what is finished is kept, start again to go on"
            ) from error
        if isinstance(answer, worker.Failure):
            raise self._failed(slot, answer)
        return answer

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        for one in self._workers:
            one.connection.close()
        for one in self._workers:
            one.end(0.0 if kind else _GRACE)  # after an error it may hang


class _Worker:
    """One process and its end of the pipe."""

    def __init__(self, world: worlds.World, numbers: range) -> None:
        self.slots = numbers
        self.connection, theirs = Pipe()
        self._process = _start(theirs)
        theirs.close()
        self.tell((world, tuple(numbers)))

    def tell(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            return  # it died; reading its answer says so, and of which episode

    def ended(self) -> str:
        try:
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def end(self, grace: float) -> None:
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start(connection: Connection) -> subprocess.Popen:
    """A process that finds the same modules. One thread each: there are several, and they are small."""
    descriptor = connection.fileno()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    program = f"from lapa_jax.evaluation.closed_loop import worker; worker.main({descriptor})"
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, env=environment, pass_fds=(descriptor,), stdin=subprocess.DEVNULL)
