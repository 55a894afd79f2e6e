"""Processes find each other as launchers describe them, and say what is wrong where they do not."""

import json
import os
import re
import socket
import subprocess
import sys

import jobs
import pytest

from lapa_jax import errors, hosts

LAUNCHERS = [name for names in hosts.LAUNCHERS for name in names]


def start(arguments, afterwards=None, **environment):
    """A process of tests/joining.py."""
    own = {key: value for key, value in os.environ.items() if key not in LAUNCHERS and not key.startswith("SLURM")}
    own |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(jobs.ROOT)} | environment
    command = [sys.executable, jobs.ROOT / "tests" / "joining.py", *map(json.dumps, (arguments, afterwards or {}))]
    return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(processes, timeout=300):
    """(exit status, output) of each."""
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def plain(**more):
    joining = dict(enabled=True, coordinator=f"127.0.0.1:{jobs.free_port()}", num_processes=2, timeout=60)
    return joining | dict(heartbeat=jobs.HEARTBEAT) | more


def slurm(port):
    job = {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "127.0.0.1", "JAX_COORDINATOR_PORT": str(port)}
    of = [dict(SLURM_NTASKS="2", SLURM_PROCID=str(p), SLURM_LOCALID=str(p)) for p in range(2)]
    return dict(enabled=True, timeout=60), [job | own for own in of]


def open_mpi(port):
    """Ranks as all versions name them; without the URI of version 4 the coordinator has to be given."""
    of = [(f"OMPI_COMM_WORLD_{name}", p) for p in range(2) for name in ("RANK", "LOCAL_RANK")]
    ranks = [{"OMPI_COMM_WORLD_SIZE": "2"} | {k: str(v) for k, v in of[2 * p : 2 * p + 2]} for p in range(2)]
    return dict(enabled=True, coordinator=f"127.0.0.1:{port}", timeout=60), ranks


def open_mpi_4(port):
    ranks = open_mpi(port)[1]
    uri = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", "JAX_COORDINATOR_PORT": str(port)}
    return dict(enabled=True, timeout=60), [uri | own for own in ranks]


@pytest.mark.parametrize("launcher", [slurm, open_mpi, pytest.param(open_mpi_4, marks=pytest.mark.slow)])
def test_launchers_say_all_that_is_needed_and_process_0_goes_first(launcher):
    arguments, environments = launcher(jobs.free_port())
    found = ended([start(arguments, {"then": "one first"}, **environment) for environment in environments])
    for number, (status, said) in enumerate(found):
        assert status == 0 and f"process {number} of 2 joined; jax: {number} of 2" in said, said
    first, second = (float(re.search(r"inside (\S+)", said)[1]) for _, said in found)
    assert first < second


def test_processes_started_differently_are_told_the_keys():
    joining = plain()
    found = ended([start(joining | {"process_id": p, "num_processes": 2 + p}, {"seed": p}) for p in range(2)])
    for status, said in found:
        assert status == 2 and "config.seed: 0 in process 0, 1 here" in said and "own" not in said, said
        assert "number of processes: 2 in process 0, 3 here" in said and "Traceback" not in said


def test_an_error_in_one_process_ends_the_others_with_its_reason():
    joining = plain()
    found = ended([start(joining | {"process_id": p}, {"then": "fails"}) for p in range(2)])
    for status, said in found:
        line = "error: process 1 of 2 failed and ends them all: RuntimeError: the disk of this host is on fire"
        assert status == 1 and line in said, said


@pytest.mark.slow
def test_a_process_that_is_gone_is_missed():
    joining = plain()
    found = ended([start(joining | {"process_id": p}, {"then": "dies"}) for p in range(2)])
    assert found[0][0] not in (0, None)
    assert "stopped sending heartbeats" in found[0][1]


def test_who_does_not_come_is_not_waited_for_longer_than_timeout():
    joining = plain(timeout=3)
    elsewhere = joining | {"coordinator": f"127.0.0.1:{jobs.free_port()}"}
    alone, lost = ended([start(joining | {"process_id": 0}), start(elsewhere | {"process_id": 1})])
    assert alone[0] == lost[0] == 2
    assert re.search(r"error: process 0 waited 3 s at 127.0.0.1:\d+ and not all processes came", alone[1]), alone
    assert re.search(r"error: no coordinator at 127.0.0.1:\d+ within 3 s", lost[1]), lost


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(enabled=False, process_id=1), "distributed.process_id is given and distributed.enabled is False"),
        (dict(), "give distributed.coordinator, distributed.num_processes, distributed.process_id"),
        (dict(process_id=1), "give distributed.coordinator, distributed.num_processes"),
        (dict(coordinator="127.0.0.1:1"), "give distributed.num_processes, distributed.process_id"),
        (dict(coordinator="somewhere", num_processes=2, process_id=0), "give HOST:PORT of process 0"),
        (dict(coordinator="x:1", num_processes=2, process_id=2), "process_id=2 of num_processes=2"),
        (dict(local_devices="0;1"), "give the numbers of devices, as in 0,1"),
    ],
)
def test_what_is_missing_or_wrong_is_named(wrong, message, monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hosts.jax._src.xla_bridge, "backends_are_initialized", lambda: False)
    with pytest.raises(errors.UserError, match=re.escape(message)):
        hosts.join(**{"enabled": True, **wrong})


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as JAX's own server does
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(errors.UserError, match=f"port {port} of this host is taken"):
            hosts.join(enabled=True, coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=0)


def test_a_process_that_is_alone_waits_for_nobody():
    hosts.join()
    assert not hosts.several() and (hosts.number(), hosts.count()) == (0, 1)
    hosts.wait("nobody")
    hosts.agree({"config.seed": 0})
    with hosts.main_first("data"):
        pass
