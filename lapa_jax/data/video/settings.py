"""How recordings become clips, and which recordings the settings suit."""

import dataclasses
import math
import re
from typing import Literal

import numpy as np

from lapa_jax import errors
from lapa_jax.data.video import motion, pictures, recordings


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides what a clip looks like.

    Attributes:
        rate: steps a second; None keeps that of the recordings, if they have one.
        size: side of the frames, pixels.
        fit: "stretch" squeezes the whole frame into the square, "crop" cuts a square from its centre.
        quality: of the JPEGs, 1..95 as Pillow counts.
        max_seconds: longer videos become several clips. Recordings with arrays (of robots) stay whole.
        min_seconds: shorter clips are dropped.
        speed: the files play this many times faster than life. Rates and lengths are those of life.
        filters: None judges nothing. For recordings of one camera without arrays.
    """

    rate: float | None = None
    size: int = 256
    fit: Literal["stretch", "crop"] = "stretch"
    quality: int = 95
    max_seconds: float = 10.0
    min_seconds: float = 0.5
    speed: float = 1.0
    filters: motion.Filters | None = None

    def __post_init__(self):
        if self.fit not in ("stretch", "crop"):
            raise errors.UserError(f"no fit {self.fit!r}; choose 'stretch' or 'crop'")
        pictures.Picture(self.size, self.fit)
        if not 1 <= self.quality <= 95:
            raise errors.UserError(f"quality {self.quality} is outside 1..95")
        for name in ("rate", "speed", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise errors.UserError(f"{name} {value} is not positive; give a number above 0")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise errors.UserError(
                f"min_seconds {self.min_seconds} is not between 0 and max_seconds {self.max_seconds}"
            )


def check_source(
    split: str, source: recordings.Recordings, first: recordings.Recordings, settings: Settings
) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", source.name):
        raise errors.UserError(f"{source.name!r} is no dataset name; use lower-case letters, digits and _")
    if not len(source):
        raise errors.UserError(f"split {split!r} of {source.name} has no recordings; bring more, or leave it out")
    for field in ("name", "rate", "cameras", "array_shapes"):
        if getattr(source, field) != getattr(first, field):
            raise errors.UserError(
                f"split {split!r} has {field} {getattr(source, field)}, others {getattr(first, field)}; "
                "build them apart"
            )
    if (settings.rate or source.rate) is None:
        raise errors.UserError(f"{source.name} has no rate of its own; say how many frames a second to keep")
    if settings.speed != 1 and source.rate is not None:
        raise errors.UserError(f"{source.name} has a rate of its own, {source.rate} Hz; leave speed at 1")
    if source.array_shapes and settings.rate not in (None, source.rate):
        raise errors.UserError(
            f"{source.name} has actions at {source.rate} Hz, which are not resampled to {settings.rate} Hz; "
            "leave the rate out"
        )
    if settings.filters and (source.array_shapes or len(source.cameras) > 1):
        raise errors.UserError(f"{source.name} is no human video of one camera; leave the filters out")


def check_recording(recording: recordings.Recording, source: recordings.Recordings) -> None:
    arrays = {name: array.shape[1:] for name, array in recording.arrays.items()}
    expected = {name: tuple(shape) for name, shape in source.array_shapes.items()}
    if tuple(recording.footage) != tuple(source.cameras) or arrays != expected:
        raise errors.UserError(
            f"{recording.id} has cameras {list(recording.footage)} and arrays {arrays} instead of "
            f"{list(source.cameras)} and {expected}"
        )
    _check_times(recording)


def _check_times(recording: recordings.Recording) -> None:
    stamps = recording.timestamps
    if stamps is None:
        return
    if len(stamps) < 2 or not np.isfinite(stamps).all() or (np.diff(stamps) < 0).any():
        raise errors.UserError(f"{recording.id} has timestamps that fall, are not finite, or are fewer than two")
    for name, array in recording.arrays.items():
        if len(array) != len(stamps):
            raise errors.UserError(
                f"{recording.id} has {len(array)} rows of {name} and {len(stamps)} timestamps; mend its metadata"
            )
