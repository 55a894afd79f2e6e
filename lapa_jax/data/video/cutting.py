"""One recording -> clips of encoded frames, as the settings say."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from lapa_jax import errors
from lapa_jax.data.video import decoding, motion, pictures, recordings
from lapa_jax.data.video import settings as clip_settings
from lapa_jax.data.video import tally as tally_lib

_T = TypeVar("_T")
_JUDGED = 144  # pixels of the short side, at least, of frames that the filters see


@dataclasses.dataclass(frozen=True)
class Clip:
    """T steps that become one episode.

    Attributes:
        id: the recording's; later clips of the same one have "#FIRST_STEP" after it.
        path: the footage of the first camera.
        start: seconds into that file.
        images: camera -> T JPEGs.
        arrays: name -> float32[T, ...].
    """

    id: str
    instruction: str
    path: str
    start: float
    images: Mapping[str, Sequence[bytes]]
    arrays: Mapping[str, np.ndarray]


def clips(
    recording: recordings.Recording,
    settings: clip_settings.Settings,
    source_rate: float | None,
    tally: tally_lib.Tally,
) -> Iterator[Clip]:
    """Decodes a recording once, from its beginning to its end.

    Args:
        recording: with one camera if there are filters.
        settings: its `rate` is `source_rate` or None where the recording has arrays.
        source_rate: steps a second of `timestamps`.
        tally: is told what is dropped, cut or damaged.

    Raises:
        UserError: nothing can be decoded, or fewer than two steps.
    """
    cut = _Cut(recording, settings, source_rate, tally)
    yield from cut.whole() if recording.arrays else cut.judged() if settings.filters else cut.windows()
    if cut.steps < 2:
        raise errors.UserError(f"{cut.path} gives fewer than two steps; raise the rate or remove it")
    for reader in cut.readers:
        if reader.damage:
            tally.damaged.setdefault(recording.id, reader.damage)


class _Cut:
    """One recording on its way to clips.

    Attributes:
        steps: how many came out of the decoder so far.
        readers: of the cameras, in their order.
    """

    def __init__(
        self,
        recording: recordings.Recording,
        settings: clip_settings.Settings,
        source_rate: float | None,
        tally: tally_lib.Tally,
    ):
        self.steps, self.readers = 0, []
        self.path = next(iter(recording.footage.values())).path
        self._recording, self._settings, self._tally = recording, settings, tally
        self._rate = settings.rate or source_rate
        same_rate = source_rate is not None and math.isclose(self._rate, source_rate)
        self._stamps = recording.timestamps if same_rate else None
        self._most = max(round(settings.max_seconds * self._rate), 2)
        self._fewest = max(math.ceil(settings.min_seconds * self._rate), 2)

    def whole(self) -> Iterator[Clip]:
        """One clip with all arrays, cut where the first of the videos ends."""
        steps = list(self._encoded())
        self.steps, expected = len(steps), len(self._recording.timestamps)
        if 2 <= len(steps) < expected:
            missing = f"{self.path} or another camera of it ends at step {len(steps)} of {expected}"
            self._tally.damaged[self._recording.id] = missing
        if len(steps) >= 2:
            yield self._clip(0, steps)

    def windows(self) -> Iterator[Clip]:
        """Clips of `max_seconds`, and what remains."""
        for steps in _batched(self._encoded(), self._most):
            first, self.steps = self.steps, self.steps + len(steps)
            if self._long_enough(steps):
                yield self._clip(first, steps)

    def judged(self) -> Iterator[Clip]:
        """The same, split at cuts, without what the filters drop."""
        filters, size = self._settings.filters, self._settings.size
        if filters.camera == "compensate":  # what is cut off shall not cost sharpness
            size = math.ceil(size / math.sqrt(max(filters.min_common, 0.25)))
        # Small frames are judged at the same resolution as large ones.
        images = self._open(pictures.Picture(max(size, _JUDGED), "whole"))[0].at(self._times())
        for frames in _batched(images, self._most):
            first, self.steps = self.steps, self.steps + len(frames)
            self._tally.counts["frames repeated"] += sum(a is b for a, b in itertools.pairwise(frames))
            edges = [0, *motion.cuts(frames, filters), len(frames)]
            self._tally.counts["cuts"] += len(edges) - 2
            for begin, end in itertools.pairwise(edges):
                if self._long_enough(frames[begin:end]):
                    yield from self._judge(first + begin, frames[begin:end])

    def _judge(self, first: int, frames: Sequence[np.ndarray]) -> Iterator[Clip]:
        verdict = motion.judge(frames, self._rate, self._settings.filters)
        self._tally.score("change", verdict.change)
        if verdict.camera_speed is None:
            self._tally.counts["camera unknown"] += 1
        else:
            self._tally.score("camera_speed", verdict.camera_speed)
        if verdict.frames is None:
            self._tally.counts[f"dropped: {verdict.reason}"] += 1
            return
        self._tally.counts["compensated"] += verdict.reason == "compensated"
        picture = pictures.Picture(self._settings.size, self._settings.fit)
        steps = [(pictures.jpeg(picture.fitted(f), self._settings.quality),) for f in verdict.frames]
        yield self._clip(first, steps)

    def _long_enough(self, steps: Sequence) -> bool:
        if len(steps) >= self._fewest:
            return True
        self._tally.counts["dropped: short"] += 1
        return False

    def _clip(self, first: int, steps: Sequence[tuple[bytes, ...]]) -> Clip:
        recording = self._recording
        self._tally.counts.update({"clips": 1, "frames": len(steps)})
        footage = next(iter(recording.footage.values()))
        return Clip(
            id=f"{recording.id}#{first}" if first else recording.id,
            instruction=recording.instruction,
            path=footage.path,
            start=footage.start + self._time(first),
            images=dict(zip(recording.footage, zip(*steps, strict=True), strict=True)),
            arrays={name: array[: len(steps)] for name, array in recording.arrays.items()},
        )

    def _encoded(self) -> Iterator[tuple[bytes, ...]]:
        """One JPEG a camera, step by step."""
        readers = self._open(pictures.Picture(self._settings.size, self._settings.fit))
        streams = [self._jpegs(r.at(self._times()), first=r is readers[0]) for r in readers]
        return zip(*streams, strict=False)

    def _jpegs(self, images: Iterator[np.ndarray | bytes], first: bool) -> Iterator[bytes]:
        last = encoded = None
        for image in images:
            self._tally.counts["frames repeated"] += first and image is last
            if image is not last:
                stored = isinstance(image, bytes)
                last, encoded = image, image if stored else pictures.jpeg(image, self._settings.quality)
            yield encoded

    def _open(self, picture: pictures.Picture) -> list[decoding.Reader]:
        recording = self._recording
        self.readers = [
            decoding.open_footage(footage, picture, recording.timestamps) for footage in recording.footage.values()
        ]
        return self.readers

    def _time(self, step: int) -> float:
        """Seconds from `Footage.start` at which a step is."""
        if self._stamps is not None:
            return float(self._stamps[step])
        stamps = self._recording.timestamps
        return step / (self._rate * self._settings.speed) + (0.0 if stamps is None else float(stamps[0]))

    def _times(self) -> Iterator[float]:
        if self._stamps is not None:
            yield from map(float, self._stamps)
            return
        stamps, footage = self._recording.timestamps, next(iter(self._recording.footage.values()))
        end = math.inf if footage.stop is None else footage.stop - footage.start
        if stamps is not None:
            end = float(stamps[-1]) + 2 * decoding.TOLERANCE
        for step in itertools.count():
            if (time := self._time(step)) >= end - decoding.TOLERANCE:
                return
            yield time


def _batched(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    values = iter(values)
    while batch := list(itertools.islice(values, size)):
        yield batch
