"""Arrays in files that are larger than memory: read where they lie, a block at a time."""

import dataclasses
import math
import mmap
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors

OTHERS = {
    b"version https://git-lfs": "a git-lfs pointer and not the checkpoint: run git lfs pull, or download the file",
    b"<": "a web page by its looks: download the file itself",
    b"PK\x03\x04": "a zip archive, as torch.save and numpy write them: a LAQ is read by convert_laq",
    b"\x80": "a pickle, which could run anything when loaded: it is not read",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
}
"""How files begin that are taken for one of these, and what they are."""


_BLOCK = 1 << 24


class MappedFile:
    """A file in memory-mapped pages, which are given back after use."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = str(path)
        try:
            with path.open("rb") as file:
                begin = file.read(32)
                self.pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if begin else b""
        except OSError as error:
            raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
        kinds = [kind for magic, kind in OTHERS.items() if begin.startswith(magic)]
        if kinds or begin[:1] != b"\x92":
            other = "no streaming checkpoint of tux; whole trees in one msgpack are not read" if begin else "empty"
            raise errors.UserError(f"{path} is {kinds[0] if kinds else other}")

    def release(self, begin: int, stop: int) -> None:
        """Let go of the pages of these bytes; they come back when touched."""
        if hasattr(mmap, "MADV_DONTNEED") and stop > begin:
            begin -= begin % mmap.PAGESIZE
            self.pages.madvise(mmap.MADV_DONTNEED, begin, stop - begin)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array on disk: shape, dtype, and (first byte, elements) of each of its chunks, in order."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[tuple[int, int], ...]
    file: MappedFile = dataclasses.field(repr=False)

    def view(self) -> np.ndarray:
        """The whole array, read-only: a view of the mapped file, or a copy where it is stored in several chunks."""
        return self._flat(0, math.prod(self.shape)).reshape(self.shape)

    def read(self, index: Any = (), dtype: Any = None) -> np.ndarray:
        """A copy of `self.view()[index]` with another dtype; `index` are slices of step 1.

        Of the file no more than a block is in memory at a time, and of the array no more than the result.
        """
        spans = _spans(index, self.shape)
        out = np.empty([stop - start for start, stop in spans], dtype or self.dtype)
        self.fill(out, spans)
        return out

    def fill(self, out: np.ndarray, spans: Sequence[tuple[int, int]]) -> None:
        """Put what is between (start, stop) of each axis into an array of that shape."""
        if not self.shape:
            out[...] = self.view()
            return
        row = math.prod(self.shape[1:])
        step = max(1, _BLOCK // max(1, row * self.dtype.itemsize))
        first, last = spans[0]
        for start in range(first, last, step) if out.size else ():
            stop = min(start + step, last)
            rows = self._flat(start * row, stop * row).reshape(-1, *self.shape[1:])
            out[start - first : stop - first] = rows[:, *(slice(*span) for span in spans[1:])]
            self._release(start * row, stop * row)

    __getitem__ = read

    def _flat(self, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) in row-major order."""
        parts = [np.frombuffer(self.file.pages, self.dtype, count, at) for at, count in self._places(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, self.dtype)])

    def _release(self, start: int, stop: int) -> None:
        for at, count in self._places(start, stop):
            self.file.release(at, at + count * self.dtype.itemsize)

    def _places(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """(first byte, elements) of each stretch of these elements."""
        for at, count in self.chunks:
            low, high = max(start, 0), min(stop, count)
            if low < high:
                yield at + low * self.dtype.itemsize, high - low
            start, stop = start - count, stop - count


def _spans(index: Any, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(start, stop) along each axis."""
    index = index if isinstance(index, tuple) else (index,)
    full = (*index, *[slice(None)] * (len(shape) - len(index)))
    spans = [piece.indices(size) for piece, size in zip(full, shape, strict=True)]
    return [(start, max(start, stop)) for start, stop, _ in spans]


class Stack:
    """Leaves of one shape as one with a leading axis.

    Raises:
        UserError: they differ (names one).
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            if (leaf.shape, leaf.dtype) != (leaves[0].shape, leaves[0].dtype):
                raise errors.UserError(
                    f"{leaf.name} is {leaf.dtype} {leaf.shape} and {leaves[0].name} {leaves[0].dtype} "
                    f"{leaves[0].shape}: layers of one model are alike"
                )
        self.leaves, self.name, self.dtype = leaves, leaves[0].name, leaves[0].dtype
        self.shape = (len(leaves), *leaves[0].shape)

    def read(self, index: Any = (), dtype: Any = None) -> np.ndarray:
        """As `Leaf.read`."""
        spans = _spans(index, self.shape)
        out = np.empty([stop - start for start, stop in spans], dtype or self.dtype)
        for i, leaf in enumerate(self.leaves[slice(*spans[0])]):
            leaf.fill(out[i, ...], spans[1:])
        return out


def blocks(value: Any, dtype: np.dtype) -> Iterator[memoryview]:
    """The bytes of anything that has a shape, a dtype and rows, in row-major order and another dtype."""
    rows = value.shape[0] if value.shape else 1
    step = max(1, _BLOCK // max(1, math.prod(value.shape[1:]) * dtype.itemsize))
    for start in range(0, rows, step):
        block = value[start : min(start + step, rows)] if value.shape else value[()]
        yield memoryview(np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8))
