"""What the CPU backend and the C library are told."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

from lapa_jax import cpu

EXPERIMENTS = pathlib.Path(__file__).resolve().parent.parent / "experiments"
START = """
import os, sys, jax, ml_collections
sys.path.insert(0, sys.argv[1])
import launch
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
mesh = dict(data=1, fsdp=-1, tensor=1)
launch.start(ml_collections.ConfigDict(dict(distributed=dict(enabled=False), mesh=mesh)))
print(os.environ.get("XLA_FLAGS"), os.environ.get("NPROC"))
"""
KEEP = """
import ctypes, mmap, pathlib
from lapa_jax import cpu
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def kept(size=2**28):
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE >= size

print(kept(), cpu.keep_freed_memory(), kept())
"""


def printed(script, *arguments):
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "NPROC")}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()[-1]


def test_programs_on_several_cpu_devices_are_told_how_to_wait():
    assert printed(START, EXPERIMENTS, 2) == f"{cpu.FLAG}=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED 32"
    assert printed(START, EXPERIMENTS, 1) == "None None"


@pytest.mark.parametrize("chosen", ["", "--xla_cpu_use_fusion_emitters=false"])
def test_other_flags_stay(monkeypatch, chosen):
    monkeypatch.setenv("XLA_FLAGS", chosen)
    cpu.serve_collectives()
    *before, added = os.environ["XLA_FLAGS"].split()
    assert before == chosen.split() and added.startswith(cpu.FLAG)


def test_a_scheduler_the_user_chose_stays(monkeypatch):
    chosen = f"{cpu.FLAG}=CPU_SCHEDULER_TYPE_CONCURRENCY_OPTIMIZED"
    monkeypatch.setenv("XLA_FLAGS", chosen)
    cpu.serve_collectives()
    assert os.environ["XLA_FLAGS"] == chosen


def test_devices_asked_for_by_flag_are_seen(monkeypatch):
    assert cpu.several()  # of these tests
    monkeypatch.setattr(type(cpu.jax.config), "jax_num_cpu_devices", 1, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert cpu.several()
    monkeypatch.setenv("XLA_FLAGS", "")
    assert not cpu.several()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_stays_with_the_process():
    assert printed(KEEP) == "False True True"
