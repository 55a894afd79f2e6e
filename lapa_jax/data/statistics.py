"""Statistics of an array of actions, and the scaling made from them with its inverse."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from lapa_jax import errors

_FIELDS = ("mean", "std", "min", "max", "q01", "q99")
_SCHEMES = ("quantile", "gaussian")
# A dimension narrower than this share of the widest one carries no signal and is not scaled up.
_RELATIVE_WIDTH = 1e-3


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Per-dimension statistics, float32[A] each, in the units of the data.

    Attributes:
        scheme: "quantile" maps [q01, q99] to [-1, 1]; "gaussian" gives mean 0 and std 1.
        count: number of rows that they were computed over.
    """

    scheme: str
    count: int
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray

    def __post_init__(self):
        if self.scheme not in _SCHEMES:
            raise errors.UserError(
                f"no normalisation scheme {self.scheme!r}; choose one of {', '.join(_SCHEMES)}"
            )

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """float32[..., A] in metres -> float32[..., A] of order one."""
        centre, width = self._centre_and_width()
        return ((actions - centre) / width).astype(np.float32)

    def unnormalise(self, actions: np.ndarray) -> np.ndarray:
        """float32[..., A] of order one -> float32[..., A] in metres: the inverse of `normalise`."""
        centre, width = self._centre_and_width()
        return (actions * width + centre).astype(np.float32)

    def _centre_and_width(self) -> tuple[np.ndarray, np.ndarray]:
        if self.scheme == "gaussian":
            centre, width = self.mean, self.std
        else:
            centre, width = (self.q99 + self.q01) / 2, (self.q99 - self.q01) / 2
        return centre, np.where(near_constant(width), np.float32(1), width)

    def to_json(self) -> str:
        values = {name: getattr(self, name).tolist() for name in _FIELDS}
        return json.dumps({"scheme": self.scheme, "count": self.count, **values})

    @classmethod
    def from_json(cls, text: str) -> "Statistics":
        try:
            saved = json.loads(text)
            arrays = {name: np.asarray(saved[name], np.float32) for name in _FIELDS}
            return cls(scheme=saved["scheme"], count=int(saved["count"]), **arrays)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise errors.UserError(
                f"not saved statistics ({error}); give the text that Statistics.to_json wrote"
            ) from error


def near_constant(width: np.ndarray) -> np.ndarray:
    """bool[A]: dimensions whose width float32[A] is nothing beside the widest one."""
    return width <= max(_RELATIVE_WIDTH * float(np.max(width)), 1e-8)


def compute(trajectories: Sequence[np.ndarray], scheme: str = "quantile") -> Statistics:
    """Statistics over all rows of `trajectories`, float32[T, A] each.

    Raises:
        UserError: no rows, or a value that is not finite.
    """
    rows = np.concatenate(trajectories).astype(np.float64) if len(trajectories) else np.zeros((0,))
    if not len(rows):
        raise errors.UserError("no actions to compute statistics from; the split has no steps")
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).any(axis=1).sum())
        raise errors.UserError(f"{bad} of {len(rows)} actions are not finite; repair the dataset")
    values = {
        "mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0),
        "q01": np.quantile(rows, 0.01, axis=0), "q99": np.quantile(rows, 0.99, axis=0),
    }
    arrays = {name: value.astype(np.float32) for name, value in values.items()}
    return Statistics(scheme=scheme, count=len(rows), **arrays)
