"""Statistics of an array of actions, and the scaling made from them with its inverse."""

import dataclasses
import json
import logging
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import columns as columns_lib
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.stored import storage

_FIELDS = ("mean", "std", "min", "max", "q01", "q99")
_SCHEMES = ("quantile", "gaussian")
# A dimension narrower than this share of the widest one carries no signal and is not scaled up.
RELATIVE_WIDTH = 1e-3
_VERSION = 1  # of cached files; to be raised when the same rows give other numbers
_PIECE = 1 << 16  # values that are in float64 at a time


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Per-dimension statistics, float32[A] each, in the units of the data.

    Attributes:
        scheme: "quantile" maps [q01, q99] to [-1, 1]; "gaussian" gives mean 0 and std 1.
        count: number of rows that they were computed over.
        unscaled: dimensions that `normalise` leaves as they are, as a gripper that is 0 or 1.
    """

    scheme: str
    count: int
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    unscaled: tuple[int, ...] = ()

    def __post_init__(self):
        _check_scheme(self.scheme)
        dims = len(self.mean)
        if outside := [d for d in self.unscaled if not -dims <= d < dims]:
            raise errors.UserError(f"no dimension {outside[0]} to leave unscaled; there are {dims}")
        object.__setattr__(self, "unscaled", tuple(sorted({d % dims for d in self.unscaled})))

    @property
    def scaled(self) -> np.ndarray:
        """bool[A]: the dimensions that are not in `unscaled`."""
        return ~np.isin(np.arange(len(self.mean)), self.unscaled)

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """float32[..., A] in the data's units -> float32[..., A] of order one."""
        centre, width = self.affine
        return ((actions - centre) / width).astype(np.float32)

    def unnormalise(self, actions: np.ndarray) -> np.ndarray:
        """float32[..., A] of order one -> float32[..., A] in the data's units: the inverse of `normalise`."""
        centre, width = self.affine
        return (actions * width + centre).astype(np.float32)

    @property
    def width(self) -> np.ndarray:
        """float32[A]: what becomes 1 by scaling."""
        return self.std if self.scheme == "gaussian" else (self.q99 - self.q01) / 2

    @property
    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """(centre, width), float32[A] each: normalised is (x - centre) / width. No width is near 0."""
        centre = self.mean if self.scheme == "gaussian" else (self.q99 + self.q01) / 2
        scaled = self.scaled
        keep = ~scaled
        keep[scaled] = near_constant(self.width[scaled])
        return np.where(scaled, centre, np.float32(0)), np.where(keep, np.float32(1), self.width)

    def to_json(self) -> str:
        values = {name: getattr(self, name).tolist() for name in _FIELDS}
        fields = {"scheme": self.scheme, "count": self.count, **values, "unscaled": list(self.unscaled)}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Statistics":
        """The inverse of `to_json`; `unscaled` may be missing.

        Raises:
            UserError: it is something else.
        """
        try:
            saved = json.loads(text)
            arrays = {name: np.asarray(saved[name], np.float32) for name in _FIELDS}
            if len({array.shape for array in arrays.values()}) > 1 or arrays["mean"].ndim != 1:
                raise ValueError("arrays of different lengths")
            unscaled = tuple(int(d) for d in saved.get("unscaled", ()))
            return cls(scheme=saved["scheme"], count=int(saved["count"]), **arrays, unscaled=unscaled)
        except errors.UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.UserError(
                f"not saved statistics ({error}); give the text that Statistics.to_json wrote"
            ) from error


def near_constant(width: np.ndarray) -> np.ndarray:
    """bool[A]: dimensions whose width float32[A] is nothing beside the widest one."""
    return width <= max(RELATIVE_WIDTH * float(np.max(width, initial=0)), 1e-8)


def compute(
    trajectories: Sequence[np.ndarray], scheme: str = "quantile", unscaled: Sequence[int] = ()
) -> Statistics:
    """Statistics over all rows of `trajectories`, float32[T, A] each.

    Memory: the rows as float32, and one column of them.

    Args:
        scheme: see `Statistics`.
        unscaled: dimensions that are not to be scaled; negative ones count from the end.

    Raises:
        UserError: no rows, or a value that is not finite.
    """
    _check_scheme(scheme)
    table = columns_lib.gather(trajectories)
    if not table.rows:
        raise errors.UserError("no actions to compute statistics from; the split has no steps")
    if bad := int((~table.finite()).sum()):
        raise errors.UserError(f"{bad} of {table.rows} actions are not finite; repair the dataset")
    return of_columns(table, scheme, unscaled)


def of_columns(table: columns_lib.Columns, scheme: str = "quantile", unscaled: Sequence[int] = ()) -> Statistics:
    """As `compute`, over the finite values of each column; NaN where a column has none."""
    values = [_of_column(table[d]) for d in range(len(table))]
    arrays = {name: np.array([value[name] for value in values], np.float32) for name in _FIELDS}
    return Statistics(scheme=scheme, count=table.rows, **arrays, unscaled=tuple(unscaled))


def cached(
    episodes: episodes_lib.Episodes,
    array: str = "action",
    scheme: str = "quantile",
    cache: str | None = None,
    unscaled: Sequence[int] = (),
) -> Statistics:
    """Statistics of one array of `episodes`, computed once for their contents.

    Args:
        array: a name in `episodes.arrays`.
        scheme, unscaled: see `compute`; they take no other pass over the data.
        cache: folder; see `storage.cache_folder`.

    Raises:
        UserError: no such array, no rows, or a value that is not finite.
    """
    _check_scheme(scheme)
    rows = episodes[array]
    key = storage.digest([_VERSION, episodes.fingerprint, array])
    stem = re.sub(r"[^\w.-]", "_", f"{episodes.name}-{array}")
    path = storage.cache_folder(cache) / "statistics" / f"{stem}-{key}.json"
    found = _load(path)
    if found is None:
        try:
            found = compute(rows)
        except errors.UserError as error:
            raise errors.UserError(f"{episodes.name}: {array}: {error}") from error
        _save(path, found)
    return dataclasses.replace(found, scheme=scheme, unscaled=tuple(unscaled))


def _load(path: pathlib.Path) -> Statistics | None:
    """None where there is no such file, or a damaged one."""
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if saved["digest"] == storage.digest(saved["statistics"]):
            return Statistics.from_json(json.dumps(saved["statistics"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    logging.warning("%s is damaged; the statistics are computed anew", path)
    return None


def _save(path: pathlib.Path, found: Statistics) -> None:
    values = json.loads(found.to_json())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_json(path, {"digest": storage.digest(values), "statistics": values})
    except OSError as error:
        logging.warning("statistics are not kept for the next time: %s (%s)", path, error.strerror or error)


def _check_scheme(scheme: str) -> None:
    if scheme not in _SCHEMES:
        raise errors.UserError(f"no normalisation scheme {scheme!r}; choose one of {', '.join(_SCHEMES)}")


def _of_column(values: np.ndarray) -> dict[str, float]:
    """The fields for one column float32[N], which is sorted in place."""
    values = values[np.isfinite(values)]
    if not len(values):
        return dict.fromkeys(_FIELDS, np.nan)
    mean = float(values.mean(dtype=np.float64))
    # From the mean and not from a sum of squares, which loses all digits of a small std far from 0.
    pieces = (values[i : i + _PIECE].astype(np.float64) - mean for i in range(0, len(values), _PIECE))
    std = float(np.sqrt(sum(float(np.square(piece).sum()) for piece in pieces) / len(values)))
    values.sort()
    quantiles = {"q01": _quantile(values, 0.01), "q99": _quantile(values, 0.99)}
    return {"mean": mean, "std": std, "min": values[0], "max": values[-1], **quantiles}


def _quantile(ordered: np.ndarray, q: float) -> float:
    """Linear between the two nearest values, as numpy's default."""
    position = q * (len(ordered) - 1)
    below = int(position)
    low, high = (float(ordered[min(i, len(ordered) - 1)]) for i in (below, below + 1))
    return low + (high - low) * (position - below)
