"""Actions as the ids of bins that hold equally many of the data, and back: those of the official code.

Every dimension has edges of its own; where values repeat, edges that fall together are one and there are fewer
bins. The last dimension may be a gripper that is 0 or 1 and becomes the ids 0 and 1; officially it always is. Edges
are stored in the official form of CSV (`simpler.csv`), which comes with published checkpoints.
"""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from lapa_jax import errors

GRIPPER_EDGES = (-0.5, 0.5, 1.5)
"""Bins around 0 and 1."""


@dataclasses.dataclass(frozen=True)
class ActionBins:
    """Bins of each dimension: bin i of a dimension is [edges[i], edges[i + 1]).

    Attributes:
        edges: float64[bins + 1] a dimension, growing.
        gripper: the last dimension is one, with `GRIPPER_EDGES`, as in all official files.
    """

    edges: tuple[np.ndarray, ...]
    gripper: bool = True

    @property
    def counts(self) -> np.ndarray:
        """int[A]: bins of each dimension; an action vocabulary needs the largest."""
        return np.array([len(edges) - 1 for edges in self.edges])

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """float[..., A] in the data's units -> int32[..., A].

        What lies outside the edges goes into the first or the last bin.

        Raises:
            UserError: actions of another length, or a gripper that is neither 0 nor 1.
        """
        actions = np.asarray(actions, np.float64)
        self._check_width(actions)
        if not np.isfinite(actions).all():
            raise errors.UserError("actions with numbers that are not finite have no bins: leave them out")
        gripper = actions[..., -1]
        if self.gripper and (strange := gripper[(gripper != 0) & (gripper != 1)]).size:
            raise errors.UserError(
                f"actions whose last number, the gripper, is {strange[0]}: it has to be 0 or 1, or no gripper"
            )
        return np.stack([_assign(edges, actions[..., i]) for i, edges in enumerate(self.edges)], axis=-1)

    def decode(self, ids: np.ndarray, legacy: bool = False) -> np.ndarray:
        """int[..., A] -> float64[..., A]: the middle of each bin.

        Args:
            legacy: ids without a bin become what the official server makes of them, the number 1, and negative ones
                count edges from the end. Else they count as the nearest bin.

        Raises:
            UserError: actions of another length.
        """
        ids = np.asarray(ids)
        self._check_width(ids)
        middles = [_middles(edges, ids[..., i], legacy) for i, edges in enumerate(self.edges)]
        return np.stack(middles, axis=-1)

    def _check_width(self, values: np.ndarray) -> None:
        if values.shape[-1:] != (len(self.edges),):
            raise errors.UserError(f"actions {values.shape}, but bins for {len(self.edges)} dimensions: fit others")

    def write(self, path: str | os.PathLike) -> None:
        """Write the official CSV: a line of numbers, and a line of edges for each dimension.

        Raises:
            UserError: `path` exists or cannot be written.
        """
        width = max(map(len, self.edges))
        rows = [[*map(float, edges)] + [""] * (width - len(edges)) for edges in self.edges]
        try:
            with open(path, "x", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([range(width), *rows])
        except FileExistsError:
            raise errors.UserError(f"{path} exists: give another name, or delete it") from None
        except OSError as error:
            raise errors.UserError(f"cannot write {path}: {error.strerror or error}") from error


def fit(actions: np.ndarray, num_bins: int, gripper: bool = True) -> ActionBins:
    """Bins of equally many of `actions` float[N, A].

    Args:
        gripper: the last column is one: 0 or 1.

    Raises:
        UserError: no actions, or one that is not finite.
    """
    actions = np.asarray(actions, np.float64)
    if actions.ndim != 2 or not actions.size or not np.isfinite(actions).all() or num_bins < 1:
        raise errors.UserError(f"{num_bins} bins of actions {actions.shape}: they are [N, A], N > 0, and finite")
    scaled = actions[:, :-1] if gripper else actions
    quantiles = np.quantile(scaled, np.linspace(0, 1, num_bins + 1), axis=0)
    edges = [_around(np.unique(column)) for column in quantiles.T]
    return ActionBins((*edges, np.array(GRIPPER_EDGES)) if gripper else tuple(edges), gripper)


def read(path: str | os.PathLike) -> ActionBins:
    """The bins of an official CSV.

    Raises:
        UserError: it cannot be read, or a line is not one of growing numbers.
    """
    try:
        lines = list(csv.reader(pathlib.Path(path).read_text().splitlines()))
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise errors.UserError(f"{path} is no CSV: {error}") from None
    edges = tuple(_edges(line, number, path) for number, line in enumerate(lines[1:], 2) if line)
    if len(edges) < 2:
        raise errors.UserError(f"{path} has {len(lines)} lines: give one of numbers, and one for each dimension")
    return ActionBins(edges, gripper=np.array_equal(edges[-1], GRIPPER_EDGES))


def _edges(line: Sequence[str], number: int, path: str | os.PathLike) -> np.ndarray:
    try:
        edges = np.array([float(cell) for cell in line if cell.strip()])
    except ValueError:
        edges = np.zeros(0)
    if len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise errors.UserError(f"{path}: line {number} is not a row of growing edges: {','.join(line)[:60]}")
    return edges


def _around(edges: np.ndarray) -> np.ndarray:
    """Edges; of a dimension that never changes, those of one narrow bin around its number."""
    if len(edges) > 1:
        return edges
    width = 1e-6 * max(abs(float(edges[0])), 1.0)
    return np.array([edges[0] - width, edges[0] + width])


def _assign(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2).astype(np.int32)


def _middles(edges: np.ndarray, ids: np.ndarray, legacy: bool) -> np.ndarray:
    ids = ids if legacy else np.clip(ids, 0, len(edges) - 2)
    known = (ids >= -len(edges)) & (ids < len(edges) - 1)
    at = np.where(known, ids, 0)
    return np.where(known, (edges[at] + edges[at + 1]) / 2, 1.0)
