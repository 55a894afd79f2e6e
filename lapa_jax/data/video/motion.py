"""Filters of human video: hard cuts, clips in which nothing moves, and motion of the camera.

Latent actions learn whatever changes between two frames; of a moving camera they learn the camera.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lapa_jax import errors
from lapa_jax.data.video import camera

_ACTIONS = ("keep", "drop", "compensate")
_UNKNOWN = 0.5  # share of steps that must be measured for a camera speed to count
_NEIGHBOURS = 2  # frames on each side to which a jump is compared


@dataclasses.dataclass(frozen=True)
class Filters:
    """Thresholds. All are independent of the size of the frames, and nearly of their rate.

    Attributes:
        static: a clip is dropped when less than this share of its pixels changes in half a second;
            0 keeps all.
        cut: mean change of colour from one frame to the next (0..1) that is a cut, if it is also
            `cut_ratio` times that of the frames around it; clips are split there. 1 never cuts.
        cut_ratio: see `cut`.
        camera: what is done with a clip whose camera moves faster than `camera_speed`. "compensate"
            warps its frames as if the camera stood still and cuts off what not all of them show.
        camera_speed: widths of the frame a second, measured over half a second.
        min_common: share of the frame's area that must be left after compensation; clips with less
            are dropped.
    """

    static: float = 0.002
    cut: float = 0.1
    cut_ratio: float = 3.0
    camera: Literal["keep", "drop", "compensate"] = "keep"
    camera_speed: float = 0.05
    min_common: float = 0.6

    def __post_init__(self):
        if self.camera not in _ACTIONS:
            raise errors.UserError(f"no camera action {self.camera!r}; choose one of: {', '.join(_ACTIONS)}")
        for name in ("static", "cut", "min_common"):
            if not 0 <= getattr(self, name) <= 1:
                raise errors.UserError(f"{name} {getattr(self, name)} is not a share; use 0..1")
        for name in ("cut_ratio", "camera_speed"):
            if not getattr(self, name) >= 0:
                raise errors.UserError(f"{name} {getattr(self, name)} is negative; use 0 or more")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the filters say of one clip.

    Attributes:
        frames: T x uint8[H, W, 3], compensated where that was asked; None when the clip is dropped.
        reason: why it is dropped, or "compensated", or "".
        change: see `camera.change`, after compensation.
        camera_speed: see `camera.speed`; None where too little texture is in view to tell.
    """

    frames: Sequence[np.ndarray] | None
    reason: str
    change: float
    camera_speed: float | None


def cuts(frames: Sequence[np.ndarray], filters: Filters) -> list[int]:
    """Positions of frames that come right after a hard cut; fades are not found."""
    if len(frames) < 2:
        return []
    small = camera.thumbnails(frames)
    jumps = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
    found = []
    for i in np.flatnonzero(jumps > filters.cut):
        around = np.concatenate([jumps[max(i - _NEIGHBOURS, 0) : i], jumps[i + 1 : i + 1 + _NEIGHBOURS]])
        if not len(around) or jumps[i] >= filters.cut_ratio * around.mean():
            found.append(int(i) + 1)
    return found


def judge(frames: Sequence[np.ndarray], rate: float, filters: Filters) -> Verdict:
    """Applies all but the cuts to one clip of uint8[T, H, W, 3] at `rate` frames a second."""
    greys = camera.grey(frames)
    path, known = camera.path(greys)
    speed = camera.speed(path, greys.shape[1:], rate) if known >= _UNKNOWN else None
    change = camera.change(greys, rate)
    reason = ""
    if speed is not None and speed > filters.camera_speed:
        if filters.camera == "drop":
            return Verdict(None, "camera moves", change, speed)
        if filters.camera == "compensate":
            frames = camera.stabilised(frames, path, greys.shape[1:], filters.min_common)
            if frames is None:
                return Verdict(None, "camera moves too far", change, speed)
            change, reason = camera.change(camera.grey(frames), rate), "compensated"
    if change < filters.static:
        return Verdict(None, "static", change, speed)
    return Verdict(frames, reason, change, speed)
