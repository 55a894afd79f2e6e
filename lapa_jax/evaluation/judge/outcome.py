"""A measure that cannot be taken says why, instead of a number that means nothing."""

import math
from collections.abc import Callable, Mapping
from typing import Any

KEY = "not_measured"


class NotMeasured(Exception):
    """Why a measure cannot be taken on this model or these data; one line."""


def attempt(measure: Callable[..., Mapping[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What the measure returns, or `{"not_measured": reason}`."""
    try:
        return dict(measure(*args, **kwargs))
    except NotMeasured as error:
        return {KEY: str(error)}


def read(results: Mapping[str, Any], path: str) -> tuple[float | None, str]:
    """(value, "") at a dotted path of the results, or (None, why there is none)."""
    node: Any = results
    for key in path.split("."):
        if KEY in node:
            return None, node[KEY]
        node = node[key]
    if isinstance(node, Mapping):
        return None, node[KEY]
    if node is None or not math.isfinite(node):
        return None, "it does not vary on these pairs"
    return float(node), ""


def find(results: Mapping[str, Any], path: str) -> Any:
    """What is at a dotted path that is known to be there."""
    for key in path.split("."):
        results = results[key]
    return results


def plain(value: Any) -> Any:
    """A copy that JSON can hold: numpy becomes Python, and what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
