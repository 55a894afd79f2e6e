"""A process with some slots: reads commands, answers each, ends when the other side is gone.

Started as a program of its own (`pools.Processes`) and not by `multiprocessing`, whose spawned children import the
main program again, and with it jax.
"""

import contextlib
import dataclasses
import signal
import traceback
from multiprocessing.connection import Connection

from lapa_jax import errors
from lapa_jax.evaluation.closed_loop import slots


@dataclasses.dataclass(frozen=True)
class Failure:
    """An exception of the environment: in one line, and with the places where it passed."""

    reason: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        said = " ".join(str(error).split())
        # What is said to a person needs neither its class nor a trace.
        told = isinstance(error, errors.UserError)
        reason = said if told else f"{type(error).__name__}: {said}"
        return cls(reason, "" if told else "".join(traceback.format_exception(error)))


def serve(connection: Connection) -> None:
    """Answers lists of (slot, method, arguments), one answer a command, in order."""
    world, numbers = connection.recv()
    places = {number: slots.Slot(world) for number in numbers}
    while True:
        for number, method, arguments in connection.recv():
            try:
                answer = getattr(places[number], method)(*arguments)
            except Exception as error:
                answer = Failure.of(error)
            connection.send(answer)


def main(descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which then closes the connection
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(Connection(descriptor))
