"""Memory and processor time of this process and its children, from /proc."""

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def resident() -> int:
    """Bytes in memory; what processes share is counted once."""
    family = _family(os.getpid())
    if len(family) == 1:
        return _kilobytes(f"/proc/{family[0]}/status", "VmRSS")
    return sum(_kilobytes(f"/proc/{process}/smaps_rollup", "Pss") for process in family)


def peak() -> int:
    """The most that this process alone ever had."""
    return _kilobytes(f"/proc/{os.getpid()}/status", "VmHWM")


class Elsewhere:
    """Cores that are busy with the work of others, from now on."""

    def __init__(self):
        self._begun, self._before = time.perf_counter(), self._seconds()

    def cores(self) -> float:
        return max((self._seconds() - self._before) / (time.perf_counter() - self._begun), 0.0)

    @staticmethod
    def _seconds() -> float:
        """user, nice, system, irq, softirq and steal of all, less our own."""
        times = [int(field) for field in _text("/proc/stat").split("\n", 1)[0].split()[1:9]]
        ours = sum(sum(map(int, _after_name(process)[11:13])) for process in _family(os.getpid()))
        return (sum(times) - times[3] - times[4] - ours) / _TICKS


def _after_name(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; zeros when it has ended."""
    return _text(f"/proc/{process}/stat").rpartition(")")[2].split() or ["0"] * 13


def _family(process: int) -> list[int]:
    children = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        children += [int(child) for child in _text(task).split()]
    return [process, *(one for child in children for one in _family(child))]


def _kilobytes(path: str, name: str) -> int:
    lines = [line for line in _text(path).splitlines() if line.startswith(f"{name}:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
