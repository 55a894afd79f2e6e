"""The sidecar index of an RLDS split: where every record and every encoded frame in it lies.

Flat arrays, memory-mapped, so that opening is instant and memory does not grow with the dataset. They are
written once by `indexing`.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import google_crc32c
import numpy as np

from lapa_jax import errors
from lapa_jax.data.stored import records, schema

_CHUNK = 1 << 22  # bytes that are read at once
FRAME = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
"""One encoded frame: where it begins (see `records.read`), its bytes, and their CRC-32C."""
EPISODE = np.dtype(
    [
        ("shard", "<u4"),
        ("place", "<u4"),
        ("layout", "<u1"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("crc", "<u4"),
        ("start", "<u8"),
        ("steps", "<u4"),
    ]
)
"""One record: shard, number in it, layout, offset, bytes, CRC-32C, row of its first step, steps."""


@dataclasses.dataclass(frozen=True)
class Index:
    """An index on disk; arrays are memory-mapped when they are asked for. Can be pickled."""

    folder: str
    paths: tuple[str, ...]

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        return json.loads((pathlib.Path(self.folder) / "index.json").read_text())

    @functools.cached_property
    def columns(self) -> dict[str, schema.Column]:
        rows = (schema.Column(**{**row, "shape": tuple(row["shape"])}) for row in self.about["columns"])
        return {row.name: row for row in rows}

    def __len__(self) -> int:
        return self.about["episodes"]

    @property
    def num_steps(self) -> int:
        return self.about["steps"]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "paths": self.paths}

    def mapped(self, name: str) -> np.ndarray:
        """The flat array of a column, memory-mapped: [steps, ...] or [episodes, ...]."""
        cache = self.__dict__.setdefault("_mapped", {})
        if name not in cache:
            # A plain view: rows of np.memmap itself are slower to take.
            cache[name] = np.load(self._checked(file_name(name)), mmap_mode="r").view(np.ndarray)
        return cache[name]

    def _checked(self, name: str) -> pathlib.Path:
        """A file of the index, after comparing its checksum: numbers have none of their own, as frames do."""
        path = pathlib.Path(self.folder) / name
        if checksum(path) != self.about["files"].get(name):
            raise errors.UserError(
                f"{path} is damaged; remove {self.folder} and the dataset is indexed anew"
            )
        return path

    @property
    def episodes(self) -> np.ndarray:
        """EPISODE[E]."""
        return self.mapped("")

    def texts(self, name: str) -> tuple[str, ...]:
        """The text of each episode; equal texts share one object."""
        column = self._checked(file_name(name))
        values = json.loads(self._checked(column.with_suffix(".json").name).read_text(encoding="utf-8"))
        return tuple(values[i] for i in np.load(column))

    def digest(self, name: str) -> str:
        """Hash of the contents of a column ("" is the episodes' lengths), whatever file they are in."""
        return self.about["digests"][name]

    def record(self, episode: int) -> bytes:
        """The serialized tf.train.Example of an episode."""
        row = self.episodes[episode]
        offset = 0 if row["layout"] == records.WHOLE else int(row["offset"])
        return self._read(row, offset, int(row["length"]), int(row["crc"]), f"record of episode {episode}")

    def frame(self, name: str, episode: int, step: int) -> bytes:
        """The encoded bytes of one frame: one positioned read.

        Raises:
            UserError: they are not the bytes that were indexed; the shard was changed meanwhile.
        """
        row = self.episodes[episode]
        if not 0 <= step < row["steps"]:
            raise IndexError(f"step {step} of an episode of {row['steps']} steps")
        frame = self.mapped(name)[int(row["start"]) + step]
        what = f"{name} at step {step} of episode {episode}"
        return self._read(row, int(frame["offset"]), int(frame["length"]), int(frame["crc"]), what)

    def _read(self, row: np.void, offset: int, length: int, crc: int, what: str) -> bytes:
        path = self.paths[row["shard"]]
        try:
            data = records.read(path, int(row["layout"]), int(row["place"]), offset, length)
        except (OSError, RuntimeError, ValueError, records.Ended) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
            raise errors.UserError(f"{path}: {what} cannot be read ({reason}); was the dataset changed?") from error
        if len(data) != length or google_crc32c.value(data) != crc:
            raise errors.UserError(
                f"{path}: the bytes of {what} are not those that were indexed; start again if the file was "
                f"replaced meanwhile, or remove {self.folder} to index it anew"
            )
        return data


def file_name(column: str) -> str:
    """Of the array of a column; "" is the table of episodes."""
    return f"column.{column.replace('%', '%25').replace('/', '%2F')}.npy" if column else "episodes.npy"


def checksum(path: pathlib.Path) -> str:
    """Bytes and CRC-32C of a file; "" where there is none."""
    crc = size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                crc, size = google_crc32c.extend(crc, block), size + len(block)
    except FileNotFoundError:
        return ""
    return f"{size}-{crc:08x}"
