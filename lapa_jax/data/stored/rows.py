"""Arrays of one shape in a `.npy` file, each beside its CRC-32C: written as they come, read by position.

`np.load` reads such a file too, as a structured array of two fields: `crc`, and the values under the name of their
dtype. bfloat16, which that format does not know, is stored as its bits.
"""

import dataclasses
import functools
import io
import os
from collections.abc import Iterable
from pathlib import Path

import google_crc32c
import ml_dtypes
import numpy as np

from lapa_jax import errors
from lapa_jax.data.stored import storage

DTYPES = {
    "uint16": np.dtype("<u2"),
    "int32": np.dtype("<i4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype("<f4"),
}
_CRC = np.dtype("<u4")
REMEDY = "remove it, and run what wrote it again: it makes what is missing"


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a file holds: values of `dtype`, a name of `DTYPES`, and `shape` a row."""

    dtype: str
    shape: tuple[int, ...]

    def write(self, path: Path, blocks: Iterable[np.ndarray], count: int) -> None:
        """Arrays [n, *shape] one after another, `count` rows in all.

        Raises:
            UserError: one of them is of another kind.
        """
        with path.open("wb") as file:
            file.write(_header(self, count))
            for block in blocks:
                if of_array(block) != self:
                    raise errors.UserError(f"{of_array(block)} among {self}: all are to be alike")
                rows = np.empty(len(block), _layout(self))
                rows["crc"] = [google_crc32c.value(row.tobytes()) for row in block]
                rows[self.dtype] = block.view(rows.dtype[self.dtype].base)
                file.write(rows.view(np.uint8).data)

    def check(self, path: Path, count: int) -> None:
        """Raises UserError unless `path` is a whole file of `count` such rows."""
        header = _header(self, count)
        size = len(header) + count * _layout(self).itemsize
        try:
            with path.open("rb") as file:
                begin, found = file.read(len(header)), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise errors.UserError(f"cannot read {path} ({error.strerror or error}): {REMEDY}") from error
        if found != size:
            raise errors.UserError(f"{path} has {found} bytes instead of {size}: {REMEDY}")
        if begin != header:
            raise errors.UserError(f"{path} holds no {count} rows of {self.dtype}{list(self.shape)}: {REMEDY}")

    def read(self, path: str, count: int, number: int) -> np.ndarray:
        """Row `number` of a file of `count`: one positioned read; the array cannot be written to.

        Raises:
            UserError: the bytes are gone, or not those that were written.
        """
        size = _layout(self).itemsize
        try:
            data = storage.read(path, len(_header(self, count)) + number * size, size)
        except OSError as error:
            raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
        values = data[_CRC.itemsize :]
        if len(data) != size or google_crc32c.value(values) != int.from_bytes(data[: _CRC.itemsize], "little"):
            raise errors.UserError(f"{path} is damaged at row {number}: {REMEDY}")
        return np.frombuffer(values, DTYPES[self.dtype]).reshape(self.shape)


def of_array(block: np.ndarray) -> Rows:
    """What an array [n, *shape] is rows of."""
    return Rows(block.dtype.name, block.shape[1:])


def of_file(path: Path) -> Rows:
    """What a file says that it holds.

    Raises:
        UserError: it is none of ours.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            _, _, layout = np.lib.format.read_array_header_1_0(file)
        if version == (1, 0) and layout.names and layout.names[1:2] and layout.names[1] in DTYPES:
            found = Rows(layout.names[1], layout[1].shape)
            if layout == _layout(found):
                return found
    except (OSError, ValueError) as error:
        raise errors.UserError(f"{path} cannot be read ({str(error)[:80]}): {REMEDY}") from error
    raise errors.UserError(f"{path} holds something else than rows with their checksums: {REMEDY}")


@functools.cache
def _layout(rows: Rows) -> np.dtype:
    stored = np.dtype("<u2") if rows.dtype == "bfloat16" else DTYPES[rows.dtype]
    return np.dtype([("crc", _CRC), (rows.dtype, stored, rows.shape)])


@functools.cache
def _header(rows: Rows, count: int) -> bytes:
    buffer = io.BytesIO()
    described = np.lib.format.dtype_to_descr(_layout(rows))
    np.lib.format.write_array_header_1_0(buffer, {"descr": described, "fortran_order": False, "shape": (count,)})
    return buffer.getvalue()
