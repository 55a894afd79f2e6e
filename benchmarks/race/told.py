"""What a person tells a benchmark, and what it tells in a file."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lapa_jax import errors
from lapa_jax.data.stored import storage


def batches(values: Sequence[str], flag: str = "batches") -> list[int]:
    """Of the flag --batches, or another one of such numbers.

    Raises:
        UserError: one is no number.
    """
    try:
        return [int(value) for value in values]
    except ValueError:
        raise errors.UserError(f"--{flag}={','.join(values)}: numbers, as in 1,4,16") from None


def write(path: str | None, size: str, found: Mapping[str, Any]) -> None:
    """All numbers, with size, day and machine; nowhere without a path."""
    if path:
        about = {"size": size, "date": datetime.date.today().isoformat(), "machine": platform.platform()}
        storage.write_json(Path(path), about | found)
