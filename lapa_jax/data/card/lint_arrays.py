"""The checks of actions and proprio; thresholds and findings are those of `lint`."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lapa_jax.data import columns, statistics
from lapa_jax.data.card import lint

_NAMED = 3  # dimensions that one message tells of
_PROBE = 100_000  # values that are looked at for how many are distinct


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of all episodes.

    Attributes:
        name: "action", "proprio".
        table: its rows.
        stats: of their finite values; see `statistics.of_columns`.
        names: of the dimensions; () where they are not known.
    """

    name: str
    table: columns.Columns
    stats: statistics.Statistics
    names: tuple[str, ...] = ()

    def label(self, d: int) -> str:
        return f"{self.names[d]} ({d})" if self.names else f"dimension {d}"

    def listed(self, dims: Sequence[int]) -> str:
        """Several dimensions in words, neighbours without names as one: "dimensions 0, 7..21"."""
        if self.names:
            return ", ".join(map(self.label, dims))
        runs: list[list[int]] = []
        for d in map(int, dims):
            if runs and d == runs[-1][-1] + 1:
                runs[-1].append(d)
            else:
                runs.append([d])
        texts = [f"{run[0]}..{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
        return f"dimension{'s' if len(dims) > 1 else ''} {', '.join(texts)}"

    @property
    def constant(self) -> np.ndarray:
        """bool[A]: what scaling by quantiles leaves as it is, and what has no finite value."""
        return statistics.near_constant(np.nan_to_num((self.stats.q99 - self.stats.q01) / 2))

    @property
    def gripper(self) -> int | None:
        """The dimension that is so called, or the last one if the names are not known and it is two-valued."""
        if self.names:
            return next((d for d, name in reversed(list(enumerate(self.names))) if "gripper" in name), None)
        last = len(self.table) - 1
        return last if last >= 0 and ends(self, last) is not None else None


def check(found: Array) -> list[lint.Finding]:
    """Everything that holds for any array."""
    return [*_not_finite(found), *_few_rows(found), *_near_constant(found), *_outliers(found)]


def check_action(found: Array) -> list[lint.Finding]:
    """The same, and what holds for actions only."""
    return [*check(found), *_saturated(found), *_gripper(found), *_idle(found)]


def _not_finite(found: Array) -> list[lint.Finding]:
    bad = ~found.table.finite()
    if not bad.any():
        return []
    dims = [d for d in range(len(found.table)) if not np.isfinite(found.table[d]).all()]
    message = f"{found.name}: {int(bad.sum())} of {len(bad)} steps have NaN or infinity in {found.listed(dims)}"
    first = _place(found, int(np.argmax(bad)))
    return [lint.Finding("error", "not_finite", f"{message}, first at {first}; repair or drop them")]


def _few_rows(found: Array) -> list[lint.Finding]:
    if found.table.rows >= lint.FEW_ROWS:
        return []
    message = f"{found.name}: q01 and q99 of {found.table.rows} steps are rough; {lint.FEW_ROWS} make them steady"
    return [lint.Finding("note", "few_rows", message)]


def _near_constant(found: Array) -> list[lint.Finding]:
    dims = np.flatnonzero(found.constant)
    if not len(dims):
        return []
    message = f"{found.name}: {found.listed(dims)} near-constant"
    limit = f"q01..q99 is at most {statistics.RELATIVE_WIDTH:g} of the widest one's, so it is not scaled"
    return [lint.Finding("warning", "near_constant", f"{message} ({limit})")]


def _outliers(found: Array) -> list[lint.Finding]:
    texts, stats = [], found.stats
    for d in np.flatnonzero(~found.constant):
        values, width = found.table[d], float(stats.q99[d]) - float(stats.q01[d])
        low, high = stats.q01[d] - lint.FAR * width, stats.q99[d] + lint.FAR * width
        far = np.isfinite(values) & ((values < low) | (values > high))
        if far.any():
            row, share = int(np.argmax(far)), lint.percent(far.mean())
            first = f"the first {values[row]:.4g} at {_place(found, row)}"
            inside = f"with q01..q99 {_span(stats.q01[d], stats.q99[d])}"
            texts.append(f"{found.label(d)} in {int(far.sum())} of {len(far)} steps ({share}), {first}, {inside}")
    if not texts:
        return []
    message = (
        f"{found.name}: outliers, more than {lint.FAR:g} widths of q01..q99 outside of it: {_listed(texts, '; ')}"
    )
    return [lint.Finding("warning", "outliers", message)]


def _saturated(found: Array) -> list[lint.Finding]:
    texts = []
    for d in np.flatnonzero(~found.constant):
        values = found.table[d][np.isfinite(found.table[d])]
        distinct = len(np.unique(values[:: max(len(values) // _PROBE, 1)]))
        if distinct <= lint.DISCRETE or ends(found, d) is not None:
            continue
        low, high = float(values.min()), float(values.max())
        near = lint.SAME * (high - low)
        for end, share in ((low, (values <= low + near).mean()), (high, (values >= high - near).mean())):
            # Zero is where things rest, as a base that does not drive.
            if share > lint.SATURATED and abs(end) > near:
                texts.append(f"{found.label(d)} in {lint.percent(share)} of the steps at {end:.4g}")
    if not texts:
        return []
    message = f"{found.name}: saturated: {_listed(texts)}, the end of the range"
    return [lint.Finding("warning", "saturated", f"{message} (above {lint.percent(lint.SATURATED)} looks clipped)")]


def _gripper(found: Array) -> list[lint.Finding]:
    d = found.gripper
    shares = None if d is None else ends(found, d)
    if shares is None or min(shares) >= lint.IMBALANCED:
        return []
    values = found.stats.min[d], found.stats.max[d]
    rare, often = values if shares[0] < shares[1] else values[::-1]
    message = f"{found.name}: {found.label(d)} is near {rare:.4g} in {lint.percent(min(shares))} of the steps"
    rest = (
        f"near {often:.4g} in {lint.percent(max(shares))}; below {lint.percent(lint.IMBALANCED)} is hardly learned"
    )
    return [lint.Finding("warning", "gripper", f"{message} and {rest}")]


def ends(found: Array, d: int) -> tuple[float, float] | None:
    """Shares of the values near the minimum and maximum of a dimension; None if it is not two-valued."""
    stats, values = found.stats, found.table[d]
    low, high = float(stats.min[d]), float(stats.max[d])
    if not high > low:
        return None
    near, inner = lint.NEAR_END * (high - low), float(stats.q99[d]) - float(stats.q01[d])
    shares = float((values <= low + near).mean()), float((values >= high - near).mean())
    # Far outliers leave two clusters as well, but one of them has a width of its own.
    clear = inner == 0 or inner > (high - low) / 2
    return shares if clear and sum(shares) >= lint.TWO_VALUED else None


def idle(found: Array) -> np.ndarray | None:
    """bool[N]: steps in which no dimension but the gripper moves; None where there is no other dimension."""
    still = None
    for d in np.flatnonzero(~found.constant):
        if d != found.gripper:
            scale = max(abs(float(found.stats.q01[d])), abs(float(found.stats.q99[d])))
            calm = np.abs(found.table[d]) <= lint.IDLE * scale
            still = calm if still is None else still & calm
    return still


def _idle(found: Array) -> list[lint.Finding]:
    still = idle(found)
    if still is None or still.mean() <= lint.IDLE_STEPS:
        return []
    what = f"no dimension but the gripper exceeds {lint.percent(lint.IDLE)} of its scale"
    first = _place(found, int(np.argmax(still)))
    message = f"{found.name}: idle: in {lint.percent(still.mean())} of the steps {what}, first at {first}"
    limit = f"above {lint.percent(lint.IDLE_STEPS)} teaches a policy to wait"
    return [lint.Finding("warning", "idle", f"{message} ({limit})")]


def _place(found: Array, row: int) -> str:
    return "episode {} step {}".format(*found.table.place(row))


def _span(low: float, high: float) -> str:
    return f"{low:.4g}..{high:.4g}"


def _listed(texts: Sequence[str], separator: str = ", ") -> str:
    more = [f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else []
    return separator.join([*texts[:_NAMED], *more])
