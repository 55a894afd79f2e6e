"""How one dataset gets its standard names: an `Entry` of the table, and the operations it may name.

The convention after standardising is that of Octo and OpenVLA: dx, dy, dz, droll, dpitch, dyaw in the
units that were published, and a gripper that is absolute, 1 open and 0 closed. Entries that differ
say so in `action_dim_names`, `gripper` and `note`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lapa_jax import errors

CAMERAS = ("image_primary", "image_secondary", "image_wrist")
TEXT_ENCODINGS = ("utf-8", "int-utf32", "auto")
_CLEARLY, _COMMAND = 0.95, 0.1


@dataclasses.dataclass(frozen=True)
class Part:
    """Some columns of one raw array, through one operation.

    Attributes:
        key: name relative to `steps`: "action", "observation/state", "action/world_vector".
        columns: [start, stop) of the values of a step, negative and None as in slices; None is all.
        op: a name in `OPS`.
    """

    key: str
    columns: tuple[int | None, int | None] | None = None
    op: str = "keep"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One dataset.

    Attributes:
        name: as dataset_info.json has it.
        rate: steps a second; None is unknown, and the user must give it.
        images: standard camera -> raw key; cameras that it has not are left out.
        instruction: raw text key, or several of which the first that is not empty holds.
        action: parts that are concatenated to `action`; () is none.
        proprio: the same for `proprio`; values as published.
        text_encoding: "utf-8", "int-utf32" (integers padded with zeros) or "auto" (as it is found).
        trim: steps to drop at the start and the end of each episode, after the operations.
        widths: raw key -> values a step as published; another number is refused.
        action_dim_names: the columns of `action` after standardising.
        gripper: its convention after standardising and what it was before; "" without a gripper.
        source: where this is from.
        note: what a user should know, and what was not verified.

    Raises:
        UserError: a camera, operation, encoding, rate or trim that there cannot be.
    """

    name: str
    rate: float | None
    images: Mapping[str, str]
    instruction: str | tuple[str, ...] | None
    action: tuple[Part, ...] = ()
    proprio: tuple[Part, ...] = ()
    text_encoding: str = "utf-8"
    trim: tuple[int, int] = (0, 0)
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    action_dim_names: tuple[str, ...] = ()
    gripper: str = ""
    source: str = ""
    note: str = ""

    def __post_init__(self):
        self._require("rate", self.rate is None or (math.isfinite(self.rate) and self.rate > 0), "above 0, or None")
        for camera in self.images:
            self._require(f"camera {camera!r}", camera in CAMERAS, f"one of {', '.join(CAMERAS)}")
        for part in (*self.action, *self.proprio):
            self._require(f"op {part.op!r} of {part.key}", part.op in OPS, f"one of {', '.join(OPS)}")
        self._require("text_encoding", self.text_encoding in TEXT_ENCODINGS, f"one of {', '.join(TEXT_ENCODINGS)}")
        self._require("trim", len(self.trim) == 2 and min(self.trim) >= 0, "two numbers of steps, 0 or more")

    def _require(self, what: str, holds: bool, allowed: Any) -> None:
        if not holds:
            raise errors.UserError(f"entry {self.name!r}: {what} must be {allowed}")


# Operations: pure functions of one array, float32[T, k] -> float32[T, k'].


def keep(x: np.ndarray) -> np.ndarray:
    return x


def zeros(x: np.ndarray) -> np.ndarray:
    """Columns that the robot does not command."""
    return np.zeros_like(x)


def negate(x: np.ndarray) -> np.ndarray:
    return -x


def invert(x: np.ndarray) -> np.ndarray:
    """1 closed -> 1 open, for values in 0..1."""
    return 1 - x


def clip01(x: np.ndarray) -> np.ndarray:
    """-1 closed, 1 open -> 0 closed, 1 open."""
    return np.clip(x, 0, 1)


def clip_invert(x: np.ndarray) -> np.ndarray:
    """-1 or 0 open, 1 closed -> 0 closed, 1 open."""
    return 1 - np.clip(x, 0, 1)


def binarize(x: np.ndarray) -> np.ndarray:
    """Gripper positions -> 0 or 1: above 0.95 is 1, below 0.05 is 0.

    A value in between is on its way and becomes the next clear one; at the end, the last clear one;
    without any clear one, whether it is above 0.5.
    """
    clear = np.where(x > _CLEARLY, 1, np.where(x < 1 - _CLEARLY, 0, np.nan)).astype(np.float32)
    filled = _filled(_filled(clear[::-1])[::-1])
    return _keep_nan(x, np.where(np.isnan(filled), x > 0.5, filled))


def rel2abs(x: np.ndarray) -> np.ndarray:
    """Gripper commands, above 0.1 closing and below -0.1 opening -> 1 open, 0 closed.

    A command holds until the next. The first is taken to change something, so that the gripper was
    the opposite before it; without any command it is open.
    """
    commanded = np.where(x < -_COMMAND, 1, np.where(x > _COMMAND, 0, np.nan)).astype(np.float32)
    filled = _filled(commanded)
    first = _filled(commanded[::-1])[-1:]  # [1, k]: the first command of each column
    return _keep_nan(x, np.where(np.isnan(filled), np.where(np.isnan(first), 1, 1 - first), filled))


def difference_next(x: np.ndarray) -> np.ndarray:
    """x[t + 1] - x[t]; the last row repeats the one before (0 in an episode of one step)."""
    return _repeat_last(np.diff(x, axis=0), x)


def angle_difference_next(x: np.ndarray) -> np.ndarray:
    """The same for angles in radians, each difference the short way round."""
    turn = np.diff(x, axis=0)
    return _repeat_last(turn - 2 * np.pi * np.round(turn / (2 * np.pi)), x)


def quaternion_to_rpy(x: np.ndarray) -> np.ndarray:
    """x, y, z, w -> roll, pitch, yaw in radians (about the fixed axes x, y, z in this order).

    A quaternion of length 0 gives NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        i, j, k, w = (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    roll = np.arctan2(2 * (w * i + j * k), 1 - 2 * (i * i + j * j))
    pitch = np.arcsin(np.clip(2 * (w * j - k * i), -1, 1))
    yaw = np.arctan2(2 * (w * k + i * j), 1 - 2 * (j * j + k * k))
    return np.stack([roll, pitch, yaw], axis=1)


def _filled(x: np.ndarray) -> np.ndarray:
    """NaN replaced by the last number above it in its column, as far as there is one."""
    rows = np.where(np.isnan(x), 0, np.arange(len(x))[:, None])
    return np.take_along_axis(x, np.maximum.accumulate(rows, axis=0), axis=0) if len(x) else x


def _keep_nan(x: np.ndarray, result: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(x), np.nan, result).astype(np.float32)


def _repeat_last(differences: np.ndarray, x: np.ndarray) -> np.ndarray:
    last = differences[-1:] if len(differences) else np.zeros_like(x[:1])
    return np.concatenate([differences, last]).astype(np.float32)


_OPERATIONS = (
    keep,
    zeros,
    negate,
    invert,
    clip01,
    clip_invert,
    binarize,
    rel2abs,
    difference_next,
    angle_difference_next,
    quaternion_to_rpy,
)
OPS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {op.__name__: op for op in _OPERATIONS}
