"""Reading motion off a decoded frame: a descriptor of (first frame, other frame) and a linear probe
that is fitted on real pairs.

Two descriptors compete on real pairs. Optical flow sees details, but loses what moves further than it is
wide. The coarse difference of the two frames keeps that; a linear map of it weighs where something went
and where it came from, and a blurred reconstruction of a motion reads as that motion.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from lapa_jax.evaluation import probes
from lapa_jax.evaluation.judge import flow, motion
from lapa_jax.evaluation.judge.outcome import NotMeasured
from lapa_jax.evaluation.judge.splits import Split
from lapa_jax.evaluation.judge.subject import Subject

LEAST = 0.15  # R2 on real pairs below which nothing is measured with it
_CHANNELS = 16  # main directions that are kept of wider feature maps
_SAMPLE = 20_000

Describe = Callable[[np.ndarray, np.ndarray], np.ndarray]


def describers(subject: Subject, frames: np.ndarray) -> dict[str, Describe]:
    """name -> (first, other float32[N, h, w, C]) -> float32[N, F], in the space of the subject.

    Args:
        frames: uint8[N, H, W, 3], some of those that will be described.
    """
    found: dict[str, Describe] = {"difference": lambda first, other: _flat(flow.pooled(other - first))}
    if subject.pixels and flow.available():
        found["flow"] = lambda first, other: flow.descriptor(flow.fields(_bytes(first), _bytes(other)))
    if not subject.pixels:
        view = subject.view(frames)
        if view.shape[-1] > _CHANNELS:
            pixels = view.reshape(-1, view.shape[-1])
            pixels = pixels[:: max(1, len(pixels) // _SAMPLE)]
            directions = probes.Projection.fit(pixels, _CHANNELS).directions
            found["difference"] = lambda first, other: _flat(flow.pooled((other - first) @ directions))
    return found


@dataclasses.dataclass(frozen=True)
class Meter:
    """Reads motion off descriptors.

    Attributes:
        kind: which descriptor it reads.
        reader: descriptor float[N, F] -> motion float64[N, D].
        r2: mean R2 on real pairs of the scored episodes.
        cosine: see `direction`, on the same.
    """

    kind: str
    reader: motion.Reader
    r2: float
    cosine: float

    @classmethod
    def fit(cls, descriptors: dict[str, np.ndarray], wanted: np.ndarray, split: Split) -> "Meter":
        """The one of the descriptors of real pairs that reads float64[N, D] best on `split.stop`.

        Raises:
            NotMeasured: none of them reads the motion of real pairs.
        """
        readers = {kind: motion.Reader.fit(x, wanted, split, cut=True) for kind, x in descriptors.items()}
        r2s = {k: motion.score(read(descriptors[k][split.stop]), wanted[split.stop]) for k, read in readers.items()}
        kind = max(r2s, key=lambda k: np.nan_to_num(r2s[k], nan=-np.inf))
        read = readers[kind](descriptors[kind][split.test])
        r2, cosine = motion.score(read, wanted[split.test]), direction(read, wanted[split.test])
        if not r2 >= LEAST:
            raise NotMeasured(f"the motion of real pairs cannot be read off their frames (R2 {r2:.2f})")
        return cls(kind, readers[kind], r2, cosine)

    def summary(self) -> dict[str, Any]:
        return {"kind": self.kind, "r2": self.r2, "cosine": self.cosine}


def direction(read: np.ndarray, wanted: np.ndarray) -> float:
    """Mean cosine between two motions float[N, D], each column in units of the spread of `wanted`.

    Pairs count by how far they move, and those without motion not at all: their direction is noise.
    """
    scale = np.maximum(wanted.std(axis=0), 1e-12)
    read, wanted = read / scale, wanted / scale
    length = np.linalg.norm(wanted, axis=1)
    cosine = np.sum(read * wanted, axis=1) / np.maximum(np.linalg.norm(read, axis=1) * length, 1e-12)
    total = length.sum()
    return float(np.sum(cosine * length) / total) if total > 0 else float("nan")


def _flat(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(len(maps), -1)


def _bytes(view: np.ndarray) -> np.ndarray:
    return np.round(np.clip(view, 0.0, 1.0) * 255.0).astype(np.uint8)
