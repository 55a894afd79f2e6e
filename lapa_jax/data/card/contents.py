"""The card of a dataset: what is in one of its splits, and what is wrong with it."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import columns, gaps, rlds, statistics
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.card import lint, lint_arrays, samples
from lapa_jax.data.stored import index, schema
from lapa_jax.data.tables import standard

FIELDS = ("mean", "std", "min", "q01", "q99", "max")
_ARRAYS = ("action", "proprio")
_BAD = ("bad", "damaged")  # of the reports of `tally`
_FRAMES = 64  # that are looked at of each camera
_PAIRS = 128
_COMMON = 20  # instructions that the JSON lists


@dataclasses.dataclass(frozen=True)
class Split:
    """A stored split: its episodes, and their steps as stored; None where its files cannot be read."""

    episodes: int
    steps: int | None


@dataclasses.dataclass(frozen=True)
class Camera:
    """One camera: its other names, the sizes that its sampled frames have, how many there are, and are empty."""

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    frames: int
    empty: int


@dataclasses.dataclass(frozen=True)
class Card:
    """What `inspect` shows of a split.

    Attributes:
        folder: of the RLDS files.
        form: their format, and what they were made from.
        entry: of the table, or what stands in for it; `origin` says which.
        split: as it was asked for; `episodes` are those that training sees under this name.
        held_out: episodes of the stored split that training sees under another name.
        splits: the stored ones, by name.
        cameras: by the first of their names.
        columns: every feature -> its type and shape.
        tables: "action" and "proprio", as far as there are any.
        gap: how far apart pairs are, in words; `steps` says it in steps.
        changes: float64[P], see `samples.change`, of sampled pairs.
    """

    folder: str
    form: str
    entry: standard.Entry
    origin: str
    split: str
    episodes: episodes_lib.Episodes
    held_out: int
    splits: Mapping[str, Split]
    cameras: Mapping[str, Camera]
    columns: Mapping[str, str]
    tables: tuple[lint_arrays.Array, ...]
    gap: str
    steps: gaps.Steps
    changes: np.ndarray
    findings: tuple[lint.Finding, ...]

    @property
    def instructions(self) -> collections.Counter:
        """Each instruction that is not empty -> episodes."""
        return collections.Counter(text for text in self.episodes.instructions if text.strip())

    @property
    def missing(self) -> int:
        """Episodes without an instruction."""
        return len(self.episodes) - self.instructions.total()

    @property
    def static(self) -> int:
        """Sampled pairs in which nothing moves."""
        return int((self.changes < lint.STATIC).sum())

    def hours(self, steps: int | None) -> float | None:
        """None where the rate, or the number of steps, is not known."""
        return None if steps is None or self.episodes.rate is None else steps / self.episodes.rate / 3600

    def count(self, level: str) -> int:
        """Findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """All but the frames; numbers that are not finite are null."""
        steps = self.episodes.lengths
        entry = {key: getattr(self.entry, key) for key in ("name", "gripper", "source", "note")}
        splits = {name: {**dataclasses.asdict(s), "hours": self.hours(s.steps)} for name, s in self.splits.items()}
        return {
            "name": self.episodes.name,
            "folder": self.folder,
            "format": self.form,
            "entry": {"origin": self.origin, **entry},
            "rate_hz": self.episodes.rate,
            "split": self.split,
            "episodes": len(self.episodes),
            "steps": self.episodes.num_frames,
            "steps_of_an_episode": [int(steps.min()), float(np.median(steps)), int(steps.max())],
            "held_out": self.held_out,
            "splits": splits,
            "cameras": {name: dataclasses.asdict(camera) for name, camera in self.cameras.items()},
            "columns": dict(self.columns),
            "statistics": {table.name: _statistics(table) for table in self.tables},
            "distinct_instructions": len(self.instructions),
            "missing_instructions": self.missing,
            "common_instructions": dict(self.instructions.most_common(_COMMON)),
            "pairs": {"gap": self.gap, "sampled": len(self.changes), "static": self.static},
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def _statistics(table: lint_arrays.Array) -> dict[str, Any]:
    values = {name: getattr(table.stats, name).tolist() for name in FIELDS}
    finite = {name: [v if math.isfinite(v) else None for v in row] for name, row in values.items()}
    return {"names": list(table.names), "count": table.stats.count, **finite}


def make(
    folder: str,
    split: str,
    *,
    made_from: str = "",
    name: str | None = None,
    rate: float | None = None,
    cache: str | None = None,
    gap: float = 0.6,
) -> Card:
    """Reads the arrays of a split of an RLDS dataset once, and samples of its frames.

    Damaged records are left out, and are a finding.

    Args:
        folder, split: see `rlds.open_episodes`, as for `name`, `rate` and `cache`.
        made_from: what was decoded to these files; "" for RLDS as it was found.
        gap: seconds between the frames of a pair; it is one step where the rate is not known.

    Raises:
        UserError: no such split, no episodes in it, or data that is not as the table says.
    """
    dataset = rlds.open_dataset(folder)
    entry = rlds.entry_of(dataset, name)
    stored, on_damage = _index(dataset, rlds.split_of(dataset, split)[0], cache)
    episodes = rlds.open_episodes(
        folder, split, "robot", name=name, rate=rate, cache=cache, on_damage=on_damage, hold_out=not made_from
    )
    if not episodes.num_frames:
        raise errors.UserError(f"split {split!r} of {dataset.directory} has no steps; nothing can be said of it")
    steps, apart = _gap(episodes, gap)
    changes = samples.changes(episodes, samples.pairs(episodes, steps, _PAIRS))
    tables = tuple(_table(episodes, array, entry) for array in _ARRAYS if array in episodes.arrays)
    cameras = samples.cameras(episodes)
    at = samples.places(episodes.lengths, _FRAMES)
    looks = {camera: samples.look(episodes, camera, at) for camera in cameras}
    findings = [*lint.damaged(_left_out(dataset, stored)), *_of_episodes(episodes), *_of_frames(looks)]
    findings += [*lint.pairs(changes, apart), *_of_arrays(tables)]
    return Card(
        folder=dataset.directory,
        form=f"{made_from}, decoded to RLDS" if made_from else f"RLDS, {dataset.file_format}",
        entry=entry,
        origin=_origin(dataset, name),
        split=split,
        episodes=episodes,
        held_out=len(stored) - len(episodes),
        splits={key: _split(dataset, key, cache) for key in dataset.splits},
        cameras={key: _camera(others, looks[key]) for key, others in cameras.items()},
        columns={column.name: _column(column) for column in dataset.columns},
        tables=tables,
        gap=apart,
        steps=steps,
        changes=changes,
        findings=tuple(sorted(findings, key=lambda finding: lint.LEVELS.index(finding.level))),
    )


def _index(dataset: rlds.Dataset, split: str, cache: str | None) -> tuple[index.Index, str]:
    """The index, and what damaged records do to it: "fail" if there are none, so that training finds it."""
    try:
        return rlds.open_index(dataset, split, cache), "fail"
    except errors.UserError:
        return rlds.open_index(dataset, split, cache, "skip"), "skip"


def _split(dataset: rlds.Dataset, split: str, cache: str | None) -> Split:
    expected = sum(dataset.splits[split][1])
    try:
        stored, _ = _index(dataset, split, cache)
    except errors.UserError:  # empty, or not all of its files were fetched
        return Split(expected, None if expected else 0)
    return Split(len(stored), stored.num_steps)


def _left_out(dataset: rlds.Dataset, stored: index.Index) -> list[str]:
    """Damaged records, and recordings that could not be decoded, or not to their end, to make the files."""
    reports = [report.get(kind, {}) for report in dataset.about.get("report", {}).values() for kind in _BAD]
    return [*stored.about["damaged"], *(f"{name}: {why}" for report in reports for name, why in report.items())]


def _origin(dataset: rlds.Dataset, name: str | None) -> str:
    if "rate_hz" in dataset.about:
        return "written by lapa_jax"
    return "inferred from the features" if standard.lookup(name or dataset.name) is None else "of the table"


def _gap(episodes: episodes_lib.Episodes, seconds: float) -> tuple[gaps.Steps, str]:
    gap = gaps.Gap(seconds)
    if episodes.rate is None:
        return gaps.Steps(1, 1), "one step"
    steps = gap.steps(episodes)
    return steps, f"{steps.low / episodes.rate:.3g} s"


def _table(episodes: episodes_lib.Episodes, array: str, entry: standard.Entry) -> lint_arrays.Array:
    table = columns.gather(episodes[array])
    names = entry.action_dim_names if array == "action" else ()
    known = names if len(names) == len(table) else ()
    return lint_arrays.Array(array, table, statistics.of_columns(table), known)


def _camera(others: tuple[str, ...], look: samples.Look) -> Camera:
    empty = int((look.spread < lint.EMPTY).sum())
    return Camera(others, look.sizes, len(look.spread) + len(look.broken), empty)


def _column(column: schema.Column) -> str:
    shape = f"[{', '.join(map(str, column.shape))}]" if column.shape else ""
    kind = "text" if column.kind == "text" else f"{column.dtype}{shape}"
    often = "a step" if column.per_step else "an episode"
    return f"{kind} {often}" + (f" (left in the records: {column.why})" if column.kind == "left" else "")


def _of_episodes(episodes: episodes_lib.Episodes) -> list[lint.Finding]:
    found = [*lint.rate(episodes.rate), *lint.lengths(episodes.lengths)]
    return [*found, *lint.instructions(episodes.instructions), *lint.duplicates(*samples.checksums(episodes))]


def _of_frames(looks: Mapping[str, samples.Look]) -> list[lint.Finding]:
    return [found for camera, look in looks.items() for found in lint.frames(camera, look.spread, look.broken)]


def _of_arrays(tables: tuple[lint_arrays.Array, ...]) -> list[lint.Finding]:
    checks = {"action": lint_arrays.check_action}
    return [found for table in tables for found in checks.get(table.name, lint_arrays.check)(table)]
