"""Where the benchmark's frames come from: clips of real video, or a drawn substitute."""

import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lapa_jax import errors
from lapa_jax.data.video import decoding, pictures, recordings
from lapa_jax.data.video import folders as video

SIZE = 256  # side of a frame
_HEIGHT = 360  # clips are kept at this height or less
_RATE = 30.0
_MAX_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Clips in memory, uint8[T, H, W, 3], from which episodes are cut."""

    clips: tuple[np.ndarray, ...]

    def episode(self, seed: int, cameras: int) -> Iterator[list[np.ndarray]]:
        """40..60 steps of `cameras` frames uint8[256, 256, 3]: a place, a stretch and a direction of one clip.

        Each camera is another cut of the same clip. A clip that is too short runs back and forth, each
        time a pixel beside the last, since equal frames would compress as real ones do not.
        """
        rng = np.random.default_rng(seed)
        clip = self.clips[int(rng.integers(len(self.clips)))]
        cuts = [_Cut.draw(rng, *clip.shape[1:3]) for _ in range(cameras)]
        start, stride, steps = int(rng.integers(len(clip))), int(rng.integers(1, 4)), int(rng.integers(40, 61))
        for t in range(start, start + stride * steps, stride):
            turn, there = divmod(t, len(clip))
            frame = clip[len(clip) - 1 - there if turn % 2 else there]
            yield [cut(np.roll(frame, turn, axis=1)) for cut in cuts]


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A square of a clip, perhaps mirrored."""

    top: int
    left: int
    side: int
    mirrored: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, height: int, width: int) -> "_Cut":
        side = int(rng.integers(min(height, width, SIZE), min(height, width) + 1))
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        return cls(int(top), int(left), side, bool(rng.integers(2)))

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        cut = frame[self.top : self.top + self.side, self.left : self.left + self.side]
        cut = np.ascontiguousarray(cut[:, ::-1] if self.mirrored else cut)
        if self.side == SIZE:
            return cut
        return np.asarray(Image.fromarray(cut).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def open_scenes(folder: str | None) -> Scenes:
    """The videos of a folder, or drawn clips when it is None.

    Raises:
        UserError: no video is there, or none can be decoded.
    """
    if folder is None:
        return Scenes(tuple(_drawn(seed) for seed in range(6)))
    clips = tuple(_filmed(path) for path in sorted(Path(folder).glob("*")) if path.suffix in video.SUFFIXES)
    if not clips:
        raise errors.UserError(f"no videos ({', '.join(video.SUFFIXES)}) in {folder}; leave --videos out")
    return Scenes(clips)


def identity(folder: str | None) -> int:
    """Tells sources apart in the name of the dataset's folder."""
    files = sorted(Path(folder).glob("*")) if folder else []
    return zlib.crc32(repr([(path.name, path.stat().st_size) for path in files]).encode())


def _filmed(path: Path) -> np.ndarray:
    reader = decoding.open_footage(recordings.Footage(str(path)), pictures.Picture(_HEIGHT, "whole"))
    return np.stack(list(reader.at(np.arange(0, _MAX_SECONDS, 1 / _RATE))))


def _drawn(seed: int, steps: int = 60, height: int = 288, width: int = 384) -> np.ndarray:
    """A view that drifts over a surface with detail of every size, and the grain of a sensor.

    Amplitudes fall with frequency so that a JPEG is about as large as one of a photograph.
    """
    rng, side = np.random.default_rng(seed), 512
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1.0
    grey, *colours = np.fft.ifft2(np.fft.fft2(rng.normal(size=(4, side, side))) / frequency**1.5).real
    surface = np.stack([grey + 0.3 * colour for colour in colours], axis=-1)
    surface *= 45 / surface.std()
    surface = np.tile((128 + surface).astype(np.int16), (2, 2, 1))
    clip = rng.integers(-3, 4, (steps, height, width, 1), np.int8).repeat(3, axis=-1).astype(np.int16)
    place, drift = rng.uniform(0, side, 2), rng.uniform(-3, 3, 2)
    for t in range(steps):
        top, left = (place + t * drift).astype(int) % side
        clip[t] += surface[top : top + height, left : left + width]
    return np.clip(clip, 0, 255, out=clip).astype(np.uint8)
