"""What became of the recordings of a build: counted by shard, added up, and reported."""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass
class Tally:
    """Counts, and the names of what went wrong.

    Attributes:
        counts: "recordings", "clips", "clips without instruction", "frames", "frames repeated", "cuts",
            "camera unknown", "compensated", and the clips "dropped: REASON".
        bad: recording -> why it gave no clip.
        damaged: recording -> what is missing from it; its other frames are kept.
        scores: "change" and "camera_speed" of every clip that was judged, dropped or not.
    """

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bad: dict[str, str] = dataclasses.field(default_factory=dict)
    damaged: dict[str, str] = dataclasses.field(default_factory=dict)
    scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def score(self, name: str, value: float) -> None:
        self.scores.setdefault(name, []).append(round(value, 6))

    def add(self, other: "Tally") -> None:
        self.counts.update(other.counts)
        self.bad.update(other.bad)
        self.damaged.update(other.damaged)
        for name, values in other.scores.items():
            self.scores.setdefault(name, []).extend(values)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "counts": dict(self.counts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Tally":
        return cls(**{**value, "counts": collections.Counter(value["counts"])})

    def report(self) -> dict[str, Any]:
        """For a person: the same with quantiles instead of every score."""
        scores = {
            name: {f"q{round(q * 100):02d}": round(float(np.quantile(values, q)), 6) for q in _QUANTILES}
            for name, values in sorted(self.scores.items())
        }
        kept = {"counts": dict(sorted((+self.counts).items())), "bad": self.bad, "damaged": self.damaged}
        return {**kept, "scores": scores} if scores else kept

    def warnings(self, split: str) -> list[str]:
        """One line for each kind of trouble, with its first case."""
        lines = []
        for kind, found in (("gave no clip", self.bad), ("are cut short by damage", self.damaged)):
            if found:
                first = next(iter(found.values()))
                lines.append(f"{split}: {len(found)} recordings {kind}; the first: {first}")
        if 10 * (repeated := self.counts["frames repeated"]) > self.counts["frames"]:
            lines.append(
                f"{split}: {repeated} of {self.counts['frames']} frames repeat the one before; "
                "the rate is above that of the files"
            )
        return lines
