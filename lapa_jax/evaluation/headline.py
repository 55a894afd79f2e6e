"""The targets of a run and whether it met them."""

import dataclasses
import math
from typing import Any

from lapa_jax.evaluation import intervals
from lapa_jax.evaluation.run_folder import RunFolder

MIN_CODES_USED = 6
MIN_IMPROVEMENT = 0.30
MIN_PROBE_R2 = 0.5
NOT_RUN = "not run yet"

PASS, FAIL, OPEN, MISSING = "pass", "fail", "open", "missing"


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured number beside its target; `status` is PASS, FAIL, OPEN or MISSING."""

    title: str
    target: str
    value: str = NOT_RUN
    detail: str = ""
    status: str = MISSING


def checks(run: RunFolder) -> list[Check]:
    """The run's targets in pipeline order; stages that have not run give MISSING checks."""
    laq, vlm = run.summaries["laq"] or {}, run.summaries["vlm"] or {}
    return [
        _codes_used(laq),
        _improvement(laq),
        _probe(laq),
        _code_accuracy(vlm),
        _success(run.results, "random"),
        _success(run.results, "scratch"),
    ]


def _codes_used(laq: dict[str, Any]) -> Check:
    check = Check("Codes in use", f"at least {MIN_CODES_USED} of {laq.get('num_codes', 8)}")
    if "codes_used" not in laq:
        return check
    used = laq["codes_used"]
    return dataclasses.replace(
        check,
        value=f"{used} / {laq.get('num_codes', 8)}",
        detail=f"perplexity {number(laq.get('perplexity'), 1)}",
        status=_met(used >= MIN_CODES_USED),
    )


def _improvement(laq: dict[str, Any]) -> Check:
    title, target = "Reconstruction gain", f"at least {percent(MIN_IMPROVEMENT)} over copying"
    if "improvement" not in laq:
        return Check(title, target)
    mse, copy_mse = (number(laq.get(key), 5) for key in ("mse", "copy_mse"))
    detail = f"MSE {mse}; copying the first frame {copy_mse}"
    met = laq["improvement"] >= MIN_IMPROVEMENT
    return Check(title, target, percent(laq["improvement"]), detail, _met(met))


def _probe(laq: dict[str, Any]) -> Check:
    title = "Motion read from codes"
    target = f"R² at least {MIN_PROBE_R2}, above the first-frame control"
    if "probe_r2" not in laq:
        return Check(title, target)
    probe, control = laq["probe_r2"]["mean"], laq.get("control_r2", {}).get("mean", math.nan)
    detail = f"linear probe on codes; control that sees only the first frame: R² {number(control)}"
    met = probe >= MIN_PROBE_R2 and probe > control
    return Check(title, target, f"R² {number(probe)}", detail, _met(met))


def _code_accuracy(vlm: dict[str, Any]) -> Check:
    title, target = "Code prediction", "above the majority code and above a blanked instruction"
    if "code_accuracy" not in vlm:
        return Check(title, target)
    accuracy, majority, blank = (
        vlm.get(k, math.nan) for k in ("code_accuracy", "majority_accuracy", "blank_accuracy")
    )
    detail = f"majority code {percent(majority)}; blanked instruction {percent(blank)}"
    met = accuracy > majority and accuracy > blank
    return Check(title, target, percent(accuracy), detail, _met(met))


def _success(results: dict[str, Any] | None, rival: str) -> Check:
    """Two rates count as different only if their 95 % intervals are apart."""
    name = {"scratch": "training from scratch", "random": "random actions"}[rival]
    check = Check(f"Task success vs {name}", "higher, 95 % intervals apart")
    policies = (results or {}).get("policies", {})
    ours, theirs = (
        intervals.rate_of(policies.get(p, {}).get("all")) for p in ("lapa", rival)
    )
    if ours is None or theirs is None:
        return check
    status = _met(ours.rate > theirs.rate)
    overlap = intervals.intervals_overlap(ours, theirs)
    detail = f"{name}: {theirs}" + (" (intervals overlap: not told apart)" if overlap else "")
    return dataclasses.replace(
        check, value=str(ours), detail=detail, status=OPEN if overlap else status
    )


def _met(condition: bool) -> str:
    return PASS if condition else FAIL


def number(value: float | None, digits: int = 2) -> str:
    """A float for people; `n/a` where it is absent or not finite."""
    return "n/a" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A fraction as `62 %`; `n/a` where it is absent or not finite."""
    return "n/a" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"
