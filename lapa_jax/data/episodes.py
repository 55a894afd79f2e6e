"""Episodes by number, frames by (episode, step): what every source looks like to a loader."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Protocol, overload

import numpy as np
import PIL

from lapa_jax import errors
from lapa_jax.data import transforms
from lapa_jax.data.stored import storage

_LONGEST = 1 << 31  # steps; no episode has as many


class Frames(Protocol):
    """The frames of one camera. Can be pickled."""

    def read(self, episode: int, step: int) -> bytes | np.ndarray:
        """Encoded bytes, or uint8[H, W, 3]."""
        ...


class Trajectories(Protocol):
    """One array of every episode, read when it is asked for. Can be pickled."""

    def read(self, episode: int) -> np.ndarray:
        """float32[T, D]."""
        ...


@dataclasses.dataclass(frozen=True)
class Rows(Sequence):
    """Some episodes of `Trajectories` as a sequence of float32[T, ...]."""

    source: Trajectories
    stored: np.ndarray

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return Rows(self.source, self.stored[index])
        return self.source.read(int(self.stored[index]))


@dataclasses.dataclass(frozen=True)
class Episodes:
    """The episodes of one split, in stored order.

    Attributes:
        name: of the dataset ("dataset_name" of the standard names).
        fingerprint: hash of the contents of all that the view shows, and of the view.
        view: "video" (frames and instructions only) or "robot" (arrays as well).
        rate: steps a second; None where it is not known.
        image_shape: (H, W, C) of the camera `camera`, -1 where it varies.
        lengths: int64[E], steps an episode.
        instructions: one string an episode, "" where there is none.
        cameras: name -> frames; `camera` is the one that is read when none is named.
        stored: int64[E], the number of each episode in its source.
        source: hash of the frames of `camera` in all of the source, the same in both views and for any choice of
            episodes; what is made of frames alone belongs to it. "" where nothing says so.
    """

    name: str
    fingerprint: str
    view: str
    rate: float | None
    image_shape: tuple[int, int, int]
    lengths: np.ndarray
    instructions: tuple[str, ...]
    camera: str
    cameras: Mapping[str, Frames] = dataclasses.field(repr=False)
    arrays: Mapping[str, Trajectories] = dataclasses.field(repr=False)
    stored: np.ndarray = dataclasses.field(repr=False)
    source: str = ""

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, name: str) -> Rows:
        """The array called `name`: a sequence of float32[T, ...], one an episode.

        Raises:
            UserError: the view has no such array.
        """
        if name in self.arrays:
            return Rows(self.arrays[name], self.stored)
        if self.view == "video":
            raise errors.UserError(
                f"{self.name}: the video view has no {name!r}: it holds images and instructions only; "
                "open the episodes with view='robot'"
            )
        raise errors.UserError(f"{self.name}: no array {name!r} in the robot view; it has {sorted(self.arrays)}")

    @property
    def num_frames(self) -> int:
        return int(self.lengths.sum())

    def frame(
        self, episode: int, step: int, image_size: int | None = None, camera: str | None = None
    ) -> np.ndarray:
        """uint8[H, W, 3], resized to `image_size` x `image_size` when that is given.

        Raises:
            UserError: no such camera, or bytes that are not an image.
        """
        if image_size is not None and image_size < 1:
            raise errors.UserError(f"data.image_size {image_size} holds no pixel; use 1 or more")
        stored = self.encoded(episode, step, camera)
        if isinstance(stored, bytes):
            try:
                return transforms.decode_image(stored, image_size)
            except (OSError, ValueError, SyntaxError) as error:
                what = "is empty" if not stored else f"cannot be decoded ({_reason(error)})"
                raise errors.UserError(
                    f"{self.name}: the {camera or self.camera} of episode {episode} at step {step} {what}; "
                    "choose another camera with data.image_key, or repair the dataset"
                ) from error
        return transforms.resize(stored, image_size)

    def encoded(self, episode: int, step: int, camera: str | None = None) -> bytes | np.ndarray:
        """A frame as its source holds it.

        Raises:
            UserError: no such camera.
        """
        source = self.cameras.get(camera or self.camera)
        if source is None:
            raise errors.UserError(f"{self.name}: no camera {camera!r}; it has {', '.join(self.cameras)}")
        return source.read(int(self.stored[episode]), step)

    def instruction(self, episode: int) -> str:
        return self.instructions[episode]

    def steps_of(self, seconds: float) -> int:
        """`seconds` in steps, at least 1.

        Raises:
            UserError: the rate is not known.
        """
        if self.rate is None:
            raise errors.UserError(
                f"{self.name}: how many steps a second is not known; give data.rate, or add it to the table"
            )
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise errors.UserError(f"{self.name}: {self.rate} steps a second make no sense; correct data.rate")
        return max(round(min(seconds * self.rate, _LONGEST)), 1)

    def divided(self, count: int) -> tuple["Episodes", "Episodes"]:
        """The first `count` episodes, and the others.

        Raises:
            UserError: there are not more than `count`, so that nothing would be left to hold out.
        """
        if not 0 < count < len(self):
            raise errors.UserError(
                f"{count} episodes to train on and some to hold out do not fit {len(self)}; "
                "set data.episodes to less, or build the split with more"
            )
        rows = range(len(self))
        return self.chosen(rows[:count], f"0:{count}"), self.chosen(rows[count:], f"{count}:{len(self)}")

    def chosen(self, rows: Sequence[int], name: str) -> "Episodes":
        """Some of the episodes; `name` tells this choice from others in the fingerprint."""
        return dataclasses.replace(
            self,
            fingerprint=f"{self.fingerprint}[{name}]",
            lengths=self.lengths[list(rows)],
            instructions=tuple(self.instructions[row] for row in rows),
            stored=self.stored[list(rows)],
        )

    def decoded(self, image_size: int | None = None, cameras: Sequence[str] = ()) -> "Episodes":
        """The same episodes with every frame decoded once: H * W * 3 bytes a frame, no waiting.

        Args:
            cameras: that are decoded beside `camera`; no other stays.

        Worth it for small images only: 10,000 frames of 64 px are 123 MB.

        Raises:
            UserError: they would fill more than half of the machine's memory.
        """
        height, width = (image_size, image_size) if image_size else self.image_shape[:2]
        names = (self.camera, *cameras)
        needed, memory = len(names) * self.num_frames * abs(height * width) * 3, _memory()
        if needed > memory / 2:
            raise errors.UserError(
                f"{self.name}: {self.num_frames} decoded frames are {needed / 1e9:.1f} GB and the machine has "
                f"{memory / 1e9:.1f}; set data.decode_once=False"
            )
        return dataclasses.replace(self, cameras={name: self._decoded(name, image_size) for name in names})

    def _decoded(self, camera: str, image_size: int | None) -> "Decoded":
        height, width = (image_size, image_size) if image_size else self.image_shape[:2]
        frames = {}
        for e, stored in enumerate(self.stored.tolist()):
            rows = [self.frame(e, t, image_size, camera) for t in range(int(self.lengths[e]))]
            frames[stored] = np.stack(rows) if rows else np.zeros((0, height, width, 3), np.uint8)
            frames[stored].setflags(write=False)
        return Decoded(frames)


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Frames in memory: stored episode -> uint8[T, H, W, 3]."""

    frames: Mapping[int, np.ndarray]

    def read(self, episode: int, step: int) -> np.ndarray:
        return self.frames[episode][step]


def _reason(error: Exception) -> str:
    if isinstance(error, PIL.UnidentifiedImageError):
        return "no PNG or JPEG"
    return " ".join(str(error).split())[:80]


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Datasets that are read together.

    Attributes:
        members: their episodes.
        weights: how often each is drawn; see `balance`.
        balance: whether a weight counts for each example of the member (Octo's `balance_weights`) or for
            the member as a whole.
    """

    members: tuple[Episodes, ...]
    weights: tuple[float, ...]
    balance: bool = True

    def __post_init__(self):
        if not self.members or len(self.members) != len(self.weights):
            raise errors.UserError(
                f"{len(self.members)} datasets and {len(self.weights)} weights; give one a dataset"
            )

    @property
    def fingerprint(self) -> str:
        """Hash of the members' contents and the weights."""
        return storage.digest([[m.fingerprint for m in self.members], self.weights, self.balance])

    @property
    def instructions(self) -> tuple[str, ...]:
        """Of all members, one after the other."""
        return tuple(text for member in self.members for text in member.instructions)

    def decoded(self, image_size: int | None = None) -> "Mixture":
        """See `Episodes.decoded`."""
        return dataclasses.replace(self, members=tuple(member.decoded(image_size) for member in self.members))


def as_mixture(episodes: Episodes | Mixture) -> Mixture:
    """A single dataset as a mixture of one."""
    return episodes if isinstance(episodes, Mixture) else Mixture((episodes,), (1.0,))
