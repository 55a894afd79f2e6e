"""Success rates with the uncertainty that a few dozen episodes leave: Wilson score intervals."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lapa_jax.errors import UserError

POLICIES = ("lapa", "scratch", "random", "expert")  # the order of rows and bars
NO_TRIALS = "-"


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Bounds in [0, 1] on a probability after `successes` of `trials`; z=1.96 means 95 %.

    Unlike the normal approximation it stays inside [0, 1] and keeps a width at 0 and at 100 %.

    Raises:
        UserError: no trials, or successes outside [0, trials].
    """
    if trials <= 0:
        raise UserError("a success rate needs at least one trial, got 0: run more episodes")
    if not 0 <= successes <= trials:
        raise UserError(f"successes={successes} must lie between 0 and trials={trials}")
    rate, weight = successes / trials, z * z / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


@dataclasses.dataclass(frozen=True)
class Rate:
    """How often something worked; prints as `62 % [52, 71]` (95 % Wilson interval)."""

    successes: int
    trials: int

    def __post_init__(self):
        wilson(self.successes, self.trials)  # refuses impossible counts at once

    @property
    def rate(self) -> float:
        return self.successes / self.trials

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.trials)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def intervals_overlap(a: Rate, b: Rate) -> bool:
    """Whether the two 95 % intervals share a point; if so, claim no difference between a and b."""
    (low_a, high_a), (low_b, high_b) = a.interval, b.interval
    return low_a <= high_b and low_b <= high_a


def rate_of(counts: Mapping[str, int] | None) -> Rate | None:
    """`{"successes", "trials"}` as a Rate; None where nothing was tried."""
    if not counts or not counts["trials"]:
        return None
    return Rate(int(counts["successes"]), int(counts["trials"]))


def policy_names(results: Mapping[str, Any]) -> list[str]:
    """Policies of an evaluation's results, the known ones first and in their usual order."""
    found = results["policies"]
    return [p for p in POLICIES if p in found] + [p for p in found if p not in POLICIES]


def family_names(results: Mapping[str, Any]) -> list[str]:
    """Task families of an evaluation's results, in order of first appearance."""
    return list(dict.fromkeys(f for p in results["policies"].values() for f in p["families"]))


def rate_rows(results: Mapping[str, Any]) -> dict[str, list[Rate | None]]:
    """policy -> its rate in each of `family_names(results)`, then over all episodes."""
    families = family_names(results)
    rows = {}
    for name in policy_names(results):
        policy = results["policies"][name]
        counts = [policy["families"].get(family) for family in families] + [policy["all"]]
        rows[name] = [rate_of(c) for c in counts]
    return rows


def success_table(results: Mapping[str, Any]) -> str:
    """Plain-text table for the console: a row per policy, a column per family and one for all.

    Args:
        results: `{"policies": {name: {"families": {family: counts}, "all": counts}}}` with
            counts `{"successes": int, "trials": int}`; a family never tried shows `-`.
    """
    lines = [["policy", *family_names(results), "all"]]
    for policy, rates in rate_rows(results).items():
        lines.append([policy, *(str(r) if r else NO_TRIALS for r in rates)])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (lines[0], rule, *lines[1:])
    )
