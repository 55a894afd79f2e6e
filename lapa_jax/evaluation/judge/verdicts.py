"""What became of each line: PASS, FAIL, or NOT MEASURED and why."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lapa_jax import errors
from lapa_jax.evaluation.judge import lines, outcome
from lapa_jax.evaluation.judge.lines import Line

PASS, FAIL, NOT_MEASURED = "PASS", "FAIL", "NOT MEASURED"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a line on one dataset ("" for the lines across datasets)."""

    line: Line
    dataset: str
    threshold: float
    value: float | None
    status: str
    reason: str
    interval: tuple[float, float] | None = None

    @property
    def close(self) -> bool:
        """Whether the threshold lies within the interval of the value: other pairs may decide otherwise."""
        return self.interval is not None and self.interval[0] <= self.threshold <= self.interval[1]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.line.name,
            "dataset": self.dataset,
            "title": self.line.title,
            "measure": self.line.measure,
            "value": self.value,
            "comparison": self.line.sign,
            "threshold": self.threshold,
            "interval": self.interval,
            "status": self.status,
            "why": self.line.why,
            "reason": self.reason,
        }


def verdicts(
    results: Mapping[str, Any], thresholds: Mapping[str, float], skip: Sequence[str] = ()
) -> list[Verdict]:
    """Every line on every dataset, then those across datasets; the lines named in `skip` are left out.

    Args:
        results: {"datasets": {name: results}, "across": results}.

    Raises:
        UserError: thresholds and lines do not name the same, or `skip` names no line.
    """
    if differing := set(lines.NAMES) ^ set(thresholds):
        raise errors.UserError(f"lines and thresholds name not the same: {', '.join(sorted(differing))}")
    if unknown := set(skip) - set(lines.NAMES):
        raise errors.UserError(f"skip={tuple(skip)}: no line {min(unknown)!r}; there are {', '.join(lines.NAMES)}")
    found = [
        _decided(line, name, measured, thresholds[line.name])
        for name, measured in results["datasets"].items()
        for line in lines.LINES
        if line.name not in skip and _applies(line, measured)
    ]
    if len(results["datasets"]) > 1:
        wanted = [line for line in lines.ACROSS if line.name not in skip]
        found += [_decided(line, "", results["across"], thresholds[line.name]) for line in wanted]
    return found


def _applies(line: Line, results: Mapping[str, Any]) -> bool:
    return line.only in ("", "pixels" if "psnr" in results["images"] else "features")


def _decided(line: Line, dataset: str, results: Mapping[str, Any], threshold: float) -> Verdict:
    value, reason = outcome.read(results, line.measure)
    if value is not None and line.needs_truth and not results["probes"]["target"]["true"]:
        reason = f"no effector and no actions; to measured flow it is {value:.2f}"
        value = None
    if value is None:
        return Verdict(line, dataset, threshold, None, NOT_MEASURED, reason)
    interval = tuple(outcome.find(results, line.interval)) if line.interval else None
    return Verdict(line, dataset, threshold, value, PASS if line.met(value, threshold) else FAIL, "", interval)


def table(found: list[Verdict]) -> str:
    """Lines for the console, aligned."""
    rows = [
        (
            v.status,
            v.dataset or "all",
            v.line.title,
            "-" if v.value is None else f"{v.value:.2f}",
            f"{v.line.sign} {v.threshold:g}",
            v.reason or v.line.unit if v.status != FAIL else f"{v.line.unit}: {v.line.why}".removeprefix(": "),
        )
        for v in found
    ]
    widths = [*(max(len(row[i]) for row in rows) for i in range(5)), 0]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def count(found: list[Verdict]) -> dict[str, int]:
    """How many passed, failed and were not measured."""
    return {status: sum(v.status == status for v in found) for status in (PASS, FAIL, NOT_MEASURED)}
