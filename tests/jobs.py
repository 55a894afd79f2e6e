"""Programs of experiments/ as jobs of several real processes on this machine's CPU."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT = 10
PATIENCE = 240
"""Seconds; the latter for several processes that start and compile at once."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass
class Job:
    """The processes of one program, with what they say in files.

    Attributes:
        flags: of all processes.
        own: process -> flags of its own.
        fault: what happens to it, see faults.py.
    """

    program: str
    workdir: Path
    flags: dict
    count: int = 1
    devices: int = 1
    own: dict = dataclasses.field(default_factory=dict)
    fault: str | None = None

    def __enter__(self):
        self.outputs, self.processes = [], []
        joining = {"enabled": True, "coordinator": f"127.0.0.1:{free_port()}", "num_processes": self.count}
        joining |= {"timeout": 240, "heartbeat": HEARTBEAT}
        joining = {f"distributed.{key}": value for key, value in joining.items()} if self.count > 1 else {}
        for number in range(self.count):
            flags = self.flags | joining | ({"distributed.process_id": number} if joining else {})
            self._begin(number, flags | self.own.get(number, {}))
        return self

    def _begin(self, number, flags):
        path = Path(f"{self.workdir}.{len(list(self.workdir.parent.glob('*.log')))}.{number}.log")
        file = ROOT / "experiments" / f"{self.program}.py"
        config = ROOT / "experiments" / "configs" / f"{self.program}.py:tiny"
        fault = [ROOT / "tests" / "faults.py"] if self.fault else []
        command = [sys.executable, *fault, file, f"--config={config}"]
        command += [f"--workdir={flags.pop('workdir', self.workdir)}"]
        command += [f"--config.{key}={value}" for key, value in flags.items()]
        environment = {name: value for name, value in os.environ.items() if name != "NPROC"}
        environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(self.devices), "PYTHONPATH": str(ROOT)}
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"}
        environment |= {"JOB_PROCESS": str(number), "JOB_FAULT": self.fault or ""}
        with path.open("w") as output:
            process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        self.outputs.append(path)

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def said(self, number=0):
        return self.outputs[number].read_text()

    def statuses(self):
        """Exit statuses of all, once they have ended."""
        end = time.monotonic() + PATIENCE
        try:
            return [process.wait(max(1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError("\n\n".join(self.said(n)[-3000:] for n in range(self.count))) from None

    def succeed(self):
        statuses = self.statuses()
        assert not any(statuses), f"{statuses}\n" + "\n\n".join(self.said(n)[-3000:] for n in range(self.count))

    def wait_for(self, text, number=0):
        """Until a process has said this."""
        end = time.monotonic() + PATIENCE
        while text not in self.said(number):
            assert time.monotonic() < end and self.processes[0].poll() is None, self.said()[-3000:]
            time.sleep(0.02)

    def kill(self, number, sign=signal.SIGKILL):
        self.processes[number].send_signal(sign)


def run(*args, **keys):
    """A job, to its good end."""
    with Job(*args, **keys) as job:
        job.succeed()
    return job


def rows(workdir, *names):
    """step -> values of these names, from the training lines of a run, of which no step has two."""
    lines = map(json.loads, (Path(workdir) / "metrics.jsonl").read_text().splitlines())
    lines = [row for row in lines if row["split"] == "train"]
    assert len({row["step"] for row in lines}) == len(lines)
    return {row["step"]: tuple(row[name] for name in names) for row in lines}
