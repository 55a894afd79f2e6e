"""Lines of a check that pass or fail, on the console and as JSON."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Line:
    """A number held against a threshold.

    Attributes:
        name: its key in the JSON.
        says: the number in words, for a person.
        value: NaN never passes.
        hint: where to look when it fails.
        at_most: whether the value may not exceed the threshold; else it may not be below.
    """

    name: str
    says: str
    value: float
    threshold: float
    hint: str
    at_most: bool = True

    @property
    def passed(self) -> bool:
        return self.value <= self.threshold if self.at_most else self.value >= self.threshold

    def __str__(self) -> str:
        wanted = f"wanted: {'at most' if self.at_most else 'at least'} {self.threshold:g}"
        line = f"{'PASS' if self.passed else 'FAIL'}  {self.says} ({wanted})"
        return line if self.passed else f"{line}\n      {self.hint}"


def conclude(path: pathlib.Path, lines: Sequence[Line], details: Mapping[str, Any]) -> bool:
    """Prints the lines, writes them with `details` as JSON, and says whether all passed."""
    passed = all(line.passed for line in lines)
    names = ("name", "passed", "value", "threshold", "at_most")
    found = [{name: getattr(line, name) for name in names} for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite({"passed": passed, "lines": found, **details}), indent=1, allow_nan=False)
    path.write_text(f"{text}\n")
    print(*lines, "PASS" if passed else "FAIL", sep="\n", flush=True)
    return passed


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
