"""Frames of a `Footage` at given times, in one pass. The only file that imports PyAV.

The frame at time t is the one on screen then: the last whose presentation time is not after t. So a
variable frame rate comes out right.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data.video import pictures, recordings

# Matroska and WebM store whole milliseconds: a frame may be stamped this much after its true time.
TOLERANCE = 1e-3
# A file whose frames end this much before its header says is called damaged (seconds).
_MISSING = 0.25
# No frame stays on screen for longer (seconds): one wrong time stamp would give copies without end.
_LONGEST = 60.0
# Decoders conceal damage by default, and give frames that nobody filmed.
_STRICT = {"err_detect": "explode"}


class Reader:
    """Frames of one footage.

    Attributes:
        damage: why frames are missing, "" where none are; known once `at` has ended.
    """

    damage = ""
    _end = 0.0  # when the last frame leaves the screen; known once `_frames` has ended

    def at(self, times: Iterable[float]) -> Iterator[np.ndarray | bytes]:
        """The frame on screen at each time; times are seconds from `Footage.start` and never fall.

        Ends with `times` or with the footage, whichever is first. A frame is uint8[H, W, 3], the same
        object for as long as it stays on screen, or the bytes of a JPEG that has the asked size.

        Raises:
            UserError: the first frame cannot be had; trouble later on is `damage`.
        """
        image, given = None, False
        with contextlib.closing(self._frames()) as frames:
            current = following = next(frames)
            for time in times:
                while following is not None and following[0] <= time + TOLERANCE:
                    current, image, following = following, None, next(frames, None)
                if following is None and time + TOLERANCE >= self._end:
                    return
                if image is None:
                    try:
                        image = self._converted(current[1])
                    except errors.UserError as error:
                        if not given:
                            raise
                        self.damage = str(error)
                        return
                given = True
                yield image

    def _frames(self) -> Iterator[tuple[float, Any]]:
        """(time, frame) in order of time, at least one."""
        raise NotImplementedError

    def _converted(self, frame: Any) -> np.ndarray | bytes:
        raise NotImplementedError


def open_footage(
    footage: recordings.Footage, picture: pictures.Picture, image_times: np.ndarray | None = None
) -> Reader:
    """Opens a video file, or images of which the i-th comes on screen at `image_times[i]`.

    Raises:
        UserError: the images do not fit `image_times`. A video is opened when `at` is asked.
    """
    if footage.frames is not None:
        return _Images(footage.path, footage.frames, picture, image_times)
    if Path(footage.path).is_dir():
        names = pictures.image_files(footage.path)
        return _Images(footage.path, [Path(footage.path, name) for name in names], picture, image_times)
    return _Video(footage, picture)


class _Images(Reader):
    def __init__(
        self, path: str, images: Sequence[Path | bytes], picture: pictures.Picture, times: np.ndarray | None
    ):
        if times is None:
            raise errors.UserError(f"{path} is a folder of images of unknown rate; give their rate")
        if not images or len(images) != len(times):
            raise errors.UserError(
                f"{path} holds {len(images)} images where {len(times)} are expected; "
                "complete it, or remove what does not belong there"
            )
        self._path, self._images, self._picture, self._times = path, images, picture, times

    def _frames(self) -> Iterator[tuple[float, int]]:
        lasts = float(np.median(np.diff(self._times))) if len(self._times) > 1 else 0.0
        self._end = float(self._times[-1]) + max(lasts, 3 * TOLERANCE)
        yield from zip(map(float, self._times), range(len(self._images)), strict=True)

    def _converted(self, frame: int) -> np.ndarray | bytes:
        image = self._images[frame]
        encoded = image if isinstance(image, bytes) else pictures.read(image)
        if self._picture.fit != "whole" and pictures.is_jpeg_of_size(encoded, self._picture.size):
            return encoded
        what = f"image {frame} of {self._path}" if isinstance(image, bytes) else image
        return self._picture.fitted(pictures.decode(encoded, what))


class _Video(Reader):
    def __init__(self, footage: recordings.Footage, picture: pictures.Picture):
        self._path, self._start, self._picture = footage.path, footage.start, picture
        reformatter = _av().video.reformatter
        self._reformatter = reformatter.VideoReformatter()
        flags = reformatter.Interpolation
        # Without the last two, colours come out two levels too dark.
        self._scaling = flags.BILINEAR | flags.ACCURATE_RND | flags.FULL_CHR_H_INT

    def _frames(self) -> Iterator[tuple[float, Any]]:
        if self._start > 0:
            with contextlib.closing(self._decoded(self._start)) as frames:
                first = next(frames, None)
                # An index may be missing or wrong, and a key frame may lean on those before it.
                if first is not None and first[0] <= TOLERANCE:
                    yield first
                    yield from frames
                    return
        self.damage = ""
        found = False
        for frame in self._decoded(0.0):
            found = True
            yield frame
        if not found:
            raise errors.UserError(f"{self._path}: no frame of it can be decoded; fetch it again or remove it")

    def _decoded(self, seek: float) -> Iterator[tuple[float, Any]]:
        """(seconds from `Footage.start`, frame), from the key frame before `seek` to the end."""
        with _open(self._path) as container:
            stream = _video_stream(container, self._path)
            stream.codec_context.thread_count = 1  # many files are decoded at once
            stream.codec_context.options = _STRICT
            self._pixel_aspect = float(stream.sample_aspect_ratio or 1)
            tick, origin = float(stream.time_base), stream.start_time or 0
            lasts = 1 / float(stream.average_rate) if stream.average_rate else 0.0
            if seek:
                try:
                    container.seek(origin + int(seek / tick), stream=stream)
                except _av().error.FFmpegError:
                    return
            time = None
            for frame in self._intact(container, stream):
                stamp = frame.pts if frame.pts is not None else frame.dts
                before = time
                if stamp is not None:
                    time = (stamp - origin) * tick - self._start
                else:
                    time = -self._start if before is None else before + lasts
                if before is not None and time <= before:
                    time = before
                    continue
                if time - (before or 0.0) > _LONGEST:
                    self.damage = f"{self._path} shows nothing new for {time - (before or 0.0):.0f} s"
                    return
                self._end = time + min(max((frame.duration or 0) * tick or lasts, 3 * TOLERANCE), _LONGEST)
                yield time, frame
            self._check_end(container, stream)

    def _intact(self, container: Any, stream: Any) -> Iterator[Any]:
        """Frames up to the first damage; what cannot be decoded before the first of them is left out."""
        found = False
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except _av().error.InvalidDataError:
                    if found:
                        raise
                    continue
                for frame in frames:
                    if not frame.is_corrupt:
                        found = True
                        yield frame
                    elif found:
                        raise _av().error.InvalidDataError(0, "corrupt frame")
        except _av().error.FFmpegError as error:
            self.damage = f"{self._path} is damaged after {self._end + self._start:.2f} s ({_reason(error)})"

    def _check_end(self, container: Any, stream: Any) -> None:
        """Truncated files often end without an error."""
        promised = None
        if stream.duration:
            promised = float(stream.duration * stream.time_base)
        elif container.duration and len(container.streams) == 1:
            promised = container.duration / 1e6  # libavformat counts in microseconds
        end = self._end + self._start
        if promised is not None and promised - end > _MISSING and not self.damage:
            self.damage = f"{self._path} ends at {end:.2f} s of the {promised:.2f} s that its header says"

    def _converted(self, frame: Any) -> np.ndarray:
        width, height = self._picture.scaled(frame.width * self._pixel_aspect, frame.height)
        try:
            scaled = self._reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation=self._scaling
            )
            image = scaled.to_ndarray()
        except (_av().error.FFmpegError, ValueError) as error:
            raise errors.UserError(f"{self._path} has frames that are not converted ({_reason(error)})") from error
        if turns := round(frame.rotation / 90) % 4:
            image = np.rot90(image, turns)
        return np.ascontiguousarray(self._picture.cropped(image))


def _open(path: str) -> Any:
    try:
        return _av().open(path, metadata_errors="replace")
    except (_av().error.FFmpegError, OSError) as error:
        if Path(path).exists() and not Path(path).stat().st_size:
            raise errors.UserError(f"{path} is empty; fetch it again or remove it") from error
        raise errors.UserError(f"{path} cannot be opened as a video ({_reason(error)})") from error


def _video_stream(container: Any, path: str) -> Any:
    cover = _av().stream.Disposition.attached_pic  # of a piece of music
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise errors.UserError(f"{path} holds no video, only {len(container.streams)} other streams; remove it")
    if streams[0].codec_context is None or not streams[0].time_base:
        raise errors.UserError(f"{path} has video of a kind that is not known here; convert it to mp4")
    return streams[0]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise errors.UserError("videos need PyAV; pip install 'lapa_jax[video]'") from error
    return av
