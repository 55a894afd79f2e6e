"""What every environment refuses in the same words."""

from collections.abc import Sequence

import numpy as np

from lapa_jax.errors import UserError


def action(value: np.ndarray, size: int, meaning: str) -> np.ndarray:
    """float64[size]; raises UserError for anything but so many finite numbers."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise UserError(f"action {value!r}: give {size} finite numbers, {meaning}")
    return array


def choice(value: str, allowed: Sequence[str], what: str) -> str:
    """`value`; raises UserError with the choices for one that is not allowed."""
    if value not in allowed:
        raise UserError(f"unknown {what} {value!r}: choose one of {', '.join(allowed)}")
    return value


def families(chosen: Sequence[str], known: Sequence[str], environment: str) -> tuple[str, ...]:
    """`chosen` as a tuple; raises UserError for none, or for one that there is not."""
    unknown = [chosen] if isinstance(chosen, str) else [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise UserError(f"unknown {environment} families {unknown}: choose some of {', '.join(known)}")
    return tuple(chosen)


def positive(**values: int) -> None:
    """Raises UserError where one is below 1."""
    if min(values.values()) < 1:
        named = ", ".join(f"{name}={value}" for name, value in values.items())
        raise UserError(f"{named}: give positive numbers")
