"""How a program of several processes ends: together, with the reason, and after a SIGTERM with all saved."""

import atexit
import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

from jax.experimental import multihost_utils

from lapa_jax import errors, hosts

LOOK = 1.0
"""Seconds between two looks at whether another process has failed."""
COLLECTIVE = ("Gloo", "NCCL", "Socket closed", "heartbeat")
"""Words of errors that mostly come from what happened to another process."""


@contextlib.contextmanager
def together() -> Iterator[None]:
    """An error or a bad exit status inside ends all processes with the same status, and each says why.

    A process that dies without a word is missed by JAX after `distributed.heartbeat` seconds, or by the next
    collective operation, which fails; that is an error like any other.
    """
    try:
        yield
    except SystemExit as leaving:
        if hosts.several() and leaving.code:
            _end(leaving.code if isinstance(leaving.code, int) else 1, f"it left with status {leaving.code}")
        raise
    except errors.UserError as error:
        if hosts.several():
            _end(2, str(error))
        raise
    except BaseException as error:
        if hosts.several():
            traceback.print_exc()
            _end(1, f"{type(error).__name__}: {_first_line(error)}")
        raise


def watch() -> None:
    """Look out for the failure of another process, in a thread; call it after `hosts.join`."""
    if not hosts.several():
        return
    over = threading.Event()
    thread = threading.Thread(target=_look, args=(over,), daemon=True)

    def stop() -> None:
        over.set()
        thread.join()

    atexit.register(stop)  # before JAX takes leave of the others, whose `atexit` is older
    thread.start()


def _look(over: threading.Event) -> None:
    while not over.wait(LOOK):
        if found := hosts.heard("failed"):
            _leave(json.loads(found))


def _end(status: int, reason: str) -> None:
    """Tell the others; if one has failed before, that is the reason."""
    mine = json.dumps({"process": hosts.number(), "status": status, "reason": reason})
    first = mine if hosts.say("failed", mine) else hosts.heard("failed")
    _leave(json.loads(first or mine))


def _leave(failure: dict) -> None:
    """Go without waiting for the others, as JAX does at an exit. Process 0, which they hear it from, goes last."""
    who = f"process {failure['process']} of {hosts.count()}"
    print(f"error: {who} failed and ends them all: {failure['reason']}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    if not hosts.number():
        threading.Event().wait(3 * LOOK)
    os._exit(failure["status"])


def announce(error: BaseException | None) -> None:
    """Say what ends this process of several, where it does not leave at once."""
    if hosts.several() and error is not None and not isinstance(error, SystemExit):
        who = f"process {hosts.number()} of {hosts.count()}"
        print(f"error: {who}: {type(error).__name__}: {_first_line(error)}", file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    hint = " (did another process end? see its output)" if any(word in text for word in COLLECTIVE) else ""
    return (text.splitlines() or ["no message"])[0] + hint


class Stop:
    """Whether this run was told to stop by SIGTERM, at a step that all processes agree on.

    A context manager. Of one process, SIGTERM is caught while inside. Of several, JAX catches it from `hosts.join`
    on and tells the others; they agree on the step after the one that the furthest of them has reached.
    """

    def __init__(self) -> None:
        self._told, self._before = False, None

    def __enter__(self) -> "Stop":
        if not hosts.several() and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _tell(self, *_: object) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to save now and end. To be asked at every step, by all processes."""
        if hosts.several() and not self._told:
            self._told = multihost_utils.reached_preemption_sync_point(step)
        return self._told

    def leave(self, step: int) -> None:
        """End the program with exit status 0, once the state of this step is on disk."""
        if not hosts.number():
            print(f"SIGTERM: step {step} is saved; the same command goes on from there", flush=True)
        sys.exit(0)


def fail_alone() -> None:
    """In a program without steps SIGTERM ends the process, also where JAX would catch it."""
    if hosts.several():
        signal.signal(signal.SIGTERM, lambda *_: _told())


def _told() -> None:
    raise errors.UserError("ended by SIGTERM; the same command goes on with what is missing")
