"""Several processes as one program, on JAX's own runtime: joining, agreeing, waiting for each other.

How they end together is in `endings.py`.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed  # its client, the store of keys that all processes share, has no public name

from lapa_jax import errors

LAUNCHERS = (
    # (number of processes, number of this one, its number on this host), as launchers put them into the environment
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
)
"""Read where a coordinator is given; without one JAX finds out all by itself, or does not."""

ROOM = 60
"""Seconds that JAX may wait longer than we do: it ends with a stack trace, we with a line."""
_WAITS = itertools.count()
"""Numbers of the waits, the same in all processes, as no name may be waited for twice."""
FOREVER = 7 * 24 * 3600 * 1000
"""Milliseconds of a wait that a heartbeat ends when it is in vain."""


def join(
    enabled: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    local_devices: str | None = None,
    timeout: int = 300,
    heartbeat: int = 60,
) -> None:
    """Make this process one of several; nothing where that is not asked for. Call it before jax is used.

    Args:
        coordinator: HOST:PORT of process 0; None: SLURM, Open MPI 4, GKE or Cloud TPU say all that is needed.
        local_devices: numbers of the GPUs of this process, as "0,1"; None: all, or one each where the launcher
            numbers the processes of a host.
        timeout: seconds to wait for all processes, at the start and at the end.
        heartbeat: seconds without a sign of life after which a process counts as dead.

    Raises:
        UserError: something is missing (named), or the port is taken. Where others do not come in time the process
            ends with a line and exit status 2.
    """
    given = dict(coordinator=coordinator, num_processes=num_processes, process_id=process_id)
    if not enabled:
        if named := [f"distributed.{key}" for key, value in given.items() if value is not None]:
            raise errors.UserError(
                f"{named[0]} is given and distributed.enabled is False: add --config.distributed.enabled=True"
            )
        return
    devices = _numbers(local_devices)
    if coordinator is not None:
        given, devices = _from_launcher(given, devices)
        _check(**given)
    with _ends_after(timeout, lambda: _nobody(timeout, given["process_id"])):
        _initialize(given, devices, timeout, heartbeat)


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError:
        raise errors.UserError(
            f"distributed.local_devices={text!r}: give the numbers of devices, as in 0,1"
        ) from None


def _from_launcher(given: dict[str, Any], devices: list[int] | None) -> tuple[dict[str, Any], list[int] | None]:
    for size, number, local in LAUNCHERS:
        if size in os.environ and number in os.environ and None in given.values():
            if given["num_processes"] is None:
                given |= {"num_processes": int(os.environ[size])}
            if given["process_id"] is None:
                given |= {"process_id": int(os.environ[number])}
            if devices is None and local in os.environ:
                devices = [int(os.environ[local])]
    return given, devices


def _check(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    """Raises UserError where a coordinator is given and what belongs to it is not, or cannot be."""
    port = coordinator.rpartition(":")[2]
    if ":" not in coordinator or not port.isdigit():
        raise errors.UserError(f"distributed.coordinator={coordinator!r}: give HOST:PORT of process 0")
    if process_id is None or num_processes is None:
        return  # JAX may know
    if not 0 <= process_id < num_processes:
        raise errors.UserError(
            f"distributed.process_id={process_id} of num_processes={num_processes}: they count from 0"
        )
    if process_id == 0:
        _check_free(int(port))


def _check_free(port: int) -> None:
    """JAX's server would share a port with that of another job, and both would wait for ever."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise errors.UserError(
                f"distributed.coordinator: port {port} of this host is taken ({error.strerror}), "
                "perhaps by another job: choose another port"
            ) from error


def _initialize(given: Mapping[str, Any], devices: list[int] | None, timeout: int, heartbeat: int) -> None:
    try:
        jax.distributed.initialize(
            coordinator_address=given["coordinator"],
            num_processes=given["num_processes"],
            process_id=given["process_id"],
            local_device_ids=devices,
            initialization_timeout=timeout + ROOM,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=timeout,
        )
    except ValueError as error:
        missing = ", ".join(f"distributed.{key}" for key, value in given.items() if value is None)
        if not missing:
            raise
        raise errors.UserError(
            f"no SLURM, Open MPI, GKE or Cloud TPU environment says how many processes there are: give {missing} "
            "(docs/launching.md)"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise errors.UserError(
            f"distributed.coordinator={distributed.global_state.coordinator_address}: its server cannot start "
            f"({error}): choose another port"
        ) from error


@contextlib.contextmanager
def _ends_after(seconds: float, says: Any) -> Iterator[None]:
    """The process ends with exit status 2, and what `says()` gives, unless the block is done in time."""

    def end() -> None:
        print(f"error: {says()}", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _nobody(timeout: int, process_id: int | None) -> str:
    """Why nothing came of joining."""
    state = distributed.global_state
    address = state.coordinator_address
    if address is None:
        return f"the cluster did not say within {timeout} s where process 0 is"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return (
            f"no coordinator at {address} within {timeout} s ({error}): does process 0 run, and can this host "
            "reach that port?"
        )
    return (
        f"process {state.process_id if process_id is None else process_id} waited {timeout} s at {address} and "
        "not all processes came: do all run, with the same num_processes and a process_id of their own below it, "
        "and no two jobs with this coordinator?"
    )


def several() -> bool:
    """Whether this process has joined others."""
    return distributed.global_state.client is not None and distributed.global_state.num_processes > 1


def number() -> int:
    """Of this process; 0 also where it is alone. Starts no backend."""
    return distributed.global_state.process_id if several() else 0


def count() -> int:
    """Of processes. Starts no backend."""
    return distributed.global_state.num_processes if several() else 1


def say(key: str, value: str) -> bool:
    """Tell all processes; False where that was said before, which then stands."""
    try:
        distributed.global_state.client.key_value_set(f"lapa_jax/{key}", value)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def heard(key: str) -> str | None:
    """What a process has said, if one has."""
    try:
        return distributed.global_state.client.key_value_try_get(f"lapa_jax/{key}")
    except jax.errors.JaxRuntimeError:
        return None


def wait(name: str) -> None:
    """Until all processes are at this line; nothing in a process that is alone."""
    if several():
        distributed.global_state.client.wait_at_barrier(f"lapa_jax/{next(_WAITS)} {name}", FOREVER)


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """Process 0 goes through the block first, so that the others find the files that it leaves."""
    if number():
        wait(name)
    yield
    if not number():
        wait(name)


def agree(values: Mapping[str, Any], unlike: tuple[str, ...] = ()) -> None:
    """Make sure that all processes were started alike.

    Args:
        values: "a.b" -> what has to be the same everywhere, as JSON can hold it.
        unlike: keys that may differ.

    Raises:
        UserError: they differ (names the keys). Raised where the values are not those of process 0.
    """
    if not several():
        return
    mine = {key: value for key, value in json.loads(json.dumps(values)).items() if key not in unlike}
    mine["number of processes"] = count()
    if not number():
        say("agreed", json.dumps(mine))
        return
    found = distributed.global_state.client.blocking_key_value_get("lapa_jax/agreed", FOREVER)
    first = json.loads(found)
    keys = [key for key in sorted(mine.keys() | first.keys()) if mine.get(key) != first.get(key)]
    if keys:
        shown = ", ".join(f"{key}: {first.get(key)} in process 0, {mine.get(key)} here" for key in keys[:3])
        raise errors.UserError(f"process {number()} was started differently ({shown}): give all the same flags")
