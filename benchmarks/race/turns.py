"""Who is faster: all in turn, round by round."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline import memory


@dataclasses.dataclass(frozen=True)
class Speeds:
    """Of one task.

    Attributes:
        per_s: name -> units a second of each round.
        per_core: name -> the same by processor time, which other work on the machine disturbs less.
        cores_busy_elsewhere: meanwhile, with the work of others.
    """

    per_s: Mapping[str, list[float]]
    per_core: Mapping[str, list[float]]
    cores_busy_elsewhere: float

    def ratios(self, name: str, to: str) -> list[float]:
        """Round by round."""
        return [a / b for a, b in zip(self.per_s[name], self.per_s[to], strict=True)]

    def lines(self, task: str, unit: str, baseline: str) -> str:
        """A line for each, with its ratio to the baseline."""
        rows = []
        for name, speeds in self.per_s.items():
            median, least, most = summary(speeds)
            ratio, low, high = summary(self.ratios(name, baseline))
            rows.append(
                f"{task:10} {name:12} {median:8.2f} {unit}/s ({least:.2f} to {most:.2f}), "
                f"{ratio:.2f} x {baseline} ({low:.2f} to {high:.2f})"
            )
        busy = f"{task:10} cores busy with other work meanwhile: {self.cores_busy_elsewhere:.2f}"
        return "\n".join([*rows, busy])


def race(
    competing: Mapping[str, Callable[..., Any]],
    task: str,
    units: float | Mapping[str, float],
    rounds: int,
    seconds: float,
) -> Speeds:
    """All in turn, as often as there are rounds; who was last begins the next one.

    Args:
        competing: name -> (task, steps) -> (seconds, seconds of processor time) of them.
        units: that a step does, of all or by name.
        seconds: for all of it; at least one step each is run, and rounds that would begin later are not.
    """
    begun, elsewhere = time.perf_counter(), memory.Elsewhere()
    each = units if isinstance(units, Mapping) else dict.fromkeys(competing, units)
    slot = seconds / (rounds + 1) / len(competing)
    steps = {name: max(round(slot / one(task, 1)[0]), 1) for name, one in competing.items()}  # warms up, too
    wall, processor = ({name: [] for name in competing} for _ in range(2))
    for turn in range(rounds):
        if turn and time.perf_counter() - begun > seconds:
            break
        for name in list(competing)[:: -1 if turn % 2 else 1]:
            took = competing[name](task, steps[name])
            for found, one in zip((wall, processor), took, strict=True):
                found[name].append(each[name] * steps[name] / one)
    return Speeds(wall, processor, elsewhere.cores())


def summary(values: list[float]) -> tuple[float, float, float]:
    """(median, least, most)."""
    return statistics.median(values), min(values), max(values)


def timed(run: Callable[[], None], times: int) -> tuple[float, float]:
    """(seconds, seconds of processor time) of `times` calls."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(times):
        run()
    return time.perf_counter() - wall, time.process_time() - processor
