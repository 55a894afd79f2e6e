"""Streaming checkpoints of tux (LWM, LAPA): a row of leaves, each a key and an array; read in place and written.

A file is a row of msgpack arrays [key, value], so two files one after the other are one. The key is a list of
names, the value bytes that hold what flax writes for an array: extension 1 of (shape, name of the dtype, bytes), or
for large ones a map of flat chunks, each such an extension. Nothing in it can run anything.
"""

import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lapa_jax import errors
from lapa_jax.convert import files, mapped, pickle_machine
from lapa_jax.convert import msgpack_heads as heads
from lapa_jax.convert.mapped import Leaf, MappedFile

FLOATS = ("bfloat16", "float16", "float32", "float64")
INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in FLOATS + INTEGERS}
"""Names of dtypes in files."""

CHUNK_BYTES = 1 << 30
"""Arrays above this are stored in chunks; flax's number."""

FLAVOURS = {"params": "", "trainstate": "", "trainstate_params": "params/params/"}
"""What may stand before `::` in a path -> beginning of the keys that are taken, which they lose."""

_CHUNKED = "__msgpack_chunked_array__"
_NDARRAY = 1
_MOST_AXES = 32


def read(path: str | os.PathLike) -> dict[str, Leaf]:
    """The leaves of a checkpoint by their '/'-joined keys, in the order of the file; only heads are read.

    Args:
        path: of the file, or `params::path`, `trainstate::path`, `trainstate_params::path` as in LAPA's flags.

    Raises:
        UserError: not such a file, or one that is damaged or cut off (names the leaf).
    """
    flavour, _, path = os.fspath(path).rpartition("::")
    if flavour and flavour not in FLAVOURS:
        raise errors.UserError(f"{flavour}::{path}: no kind of file {flavour!r}; choose of {', '.join(FLAVOURS)}")
    file, leaves = MappedFile(pathlib.Path(path)), {}
    cursor = heads.Cursor(memoryview(file.pages), 0, len(file.pages))
    while cursor.position < cursor.stop:
        name = f"the leaf after {next(reversed(leaves), 'the beginning')}"
        try:
            cursor.expect("array", 2)
            name = _key(cursor)
            leaf = _leaf(cursor.inside("bin"), name, file)
        except heads.Malformed as error:
            where = f"{path} is cut off or damaged: {_shown(name)}"
            raise errors.UserError(f"{where}: {error}; copy it again") from None
        if leaves.setdefault(name, leaf) is not leaf:
            raise errors.UserError(f"{path} has {_shown(name)} twice: two checkpoints in one file?")
    return chosen(leaves, FLAVOURS[flavour], path) if flavour else leaves


def chosen(leaves: Mapping[str, Leaf], prefix: str, path: str) -> dict[str, Leaf]:
    """The leaves below a prefix, without it.

    Raises:
        UserError: there is none.
    """
    found = {name.removeprefix(prefix): leaf for name, leaf in leaves.items() if name.startswith(prefix)}
    if not found:
        raise errors.UserError(f"{path} has no leaf under {prefix}: no whole train state; give params::{path}")
    return found


def _shown(name: str) -> str:
    return pickle_machine.in_short(name).strip("'")


def _key(cursor: heads.Cursor) -> str:
    at, length = cursor.position, cursor.expect("array")
    if not 0 < length <= _MOST_AXES:
        raise heads.Malformed(f"a key of {length} names at byte {at}")
    names = [cursor.text() for _ in range(length)]
    if not all(names) or any("/" in name for name in names):
        raise heads.Malformed(f"a key with a name that is empty or has a slash at byte {at}")
    return "/".join(names)


def _leaf(cursor: heads.Cursor, name: str, file: MappedFile) -> Leaf:
    """The leaf that the bytes under the cursor describe."""
    if cursor.data[cursor.position : cursor.position + 1] == b"\x83":
        shape, dtype, chunks = _chunked(cursor)
    else:
        shape, dtype, chunk = _ndarray(cursor)
        chunks = (chunk,)
    cursor.end()
    stored = sum(count for _, count in chunks)
    if math.prod(shape) != stored or math.prod(max(n, 1) for n in shape) > max(stored, 1 << 32):
        raise heads.Malformed(f"shape {pickle_machine.in_short(shape)} and {stored} elements")
    return Leaf(name, shape, dtype, chunks, file)


def _ndarray(cursor: heads.Cursor) -> tuple[tuple[int, ...], np.dtype, tuple[int, int]]:
    """Shape, dtype and (first byte, elements) of an extension 1."""
    inside = cursor.inside("ext", _NDARRAY)
    inside.expect("array", 3)
    shape = tuple(inside.expect("uint") for _ in range(_axes(inside, "array")))
    dtype = inside.text()
    if dtype not in DTYPES:
        raise heads.Malformed(f"dtype {pickle_machine.in_short(dtype)}, which is none of {', '.join(DTYPES)}")
    data, size = inside.inside("bin"), DTYPES[dtype].itemsize
    inside.end()
    length = data.stop - data.position
    if length != math.prod(shape) * size:
        raise heads.Malformed(f"{length} bytes for shape {pickle_machine.in_short(shape)} of {dtype}")
    return shape, DTYPES[dtype], (data.position, length // size)


def _axes(cursor: heads.Cursor, kind: str) -> int:
    at, length = cursor.position, cursor.expect(kind)
    if length > _MOST_AXES:
        raise heads.Malformed(f"{length} axes at byte {at}")
    return length


def _chunked(cursor: heads.Cursor) -> tuple[tuple[int, ...], np.dtype, tuple[tuple[int, int], ...]]:
    """The same of an array in flat chunks."""
    cursor.expect("map", 3)
    _name(cursor, _CHUNKED)
    cursor.expect("true")
    _name(cursor, "shape")
    shape = tuple(_name(cursor, str(i)).expect("uint") for i in range(_axes(cursor, "map")))
    _name(cursor, "chunks")
    parts = [_ndarray(_name(cursor, str(i))) for i in range(cursor.expect("map"))]
    dtypes = {dtype for _, dtype, _ in parts}
    if len(dtypes) != 1 or any(len(of) != 1 for of, _, _ in parts):
        raise heads.Malformed(f"{len(parts)} chunks of {len(dtypes)} dtypes, or such that are not flat")
    return shape, dtypes.pop(), tuple(chunk for _, _, chunk in parts)


def _name(cursor: heads.Cursor, wanted: str) -> heads.Cursor:
    at, found = cursor.position, cursor.text()
    if found != wanted:
        raise heads.Malformed(f"{pickle_machine.in_short(found)} at byte {at} where {wanted} belongs")
    return cursor


def write(
    path: str | os.PathLike,
    leaves: Mapping[str, Any],
    float_dtype: str | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Write a checkpoint, leaf by leaf and block by block.

    Args:
        leaves: '/'-joined keys, in the order of the file, and arrays: of numpy, a `Leaf`, or anything that has a
            shape, a dtype and rows by `[start:stop]`.
        float_dtype: of all leaves that are floats; None leaves them as they are. LAPA writes bfloat16.
        chunk_bytes: arrays of more bytes are stored in chunks of at most this.

    Raises:
        UserError: `path` exists or cannot be written, or a leaf has no place in the format.
    """
    with files.new(path) as file:
        for name, value in leaves.items():
            _put(file, name, value, _stored_dtype(name, value.dtype, float_dtype), chunk_bytes)


def _stored_dtype(name: str, dtype: np.dtype, float_dtype: str | None) -> np.dtype:
    stored = float_dtype if float_dtype and dtype.name in FLOATS else dtype.name
    if stored not in DTYPES:
        raise errors.UserError(f"{name} is {stored}, which checkpoints of tux do not have: cast it first")
    return DTYPES[stored]


def _put(file: BinaryIO, name: str, value: Any, dtype: np.dtype, chunk_bytes: int) -> None:
    layout = _layout(value.shape, dtype, chunk_bytes)
    length = sum(part if isinstance(part, int) else len(part) for part in layout)
    try:
        begin = heads.array(2) + _packed_key(name) + heads.binary(length)
    except OverflowError:
        raise errors.UserError(
            f"{name} {tuple(value.shape)} has {length} bytes, and the format ends at 4 GiB a leaf: write bfloat16"
        ) from None
    file.write(begin)
    pieces, left = mapped.blocks(value, dtype), memoryview(b"")
    for part in layout:
        if isinstance(part, bytes):
            file.write(part)
        else:
            left = _copy(pieces, left, part, file)


def _copy(pieces: Iterator[memoryview], left: memoryview, count: int, file: BinaryIO) -> memoryview:
    """Write so many bytes of what is left and of the pieces after it; returns what is left then."""
    while count:
        left = left or next(pieces)
        file.write(left[:count])
        count, left = max(0, count - len(left)), left[count:]
    return left


def _packed_key(name: str) -> bytes:
    names = name.split("/")
    return heads.array(len(names)) + b"".join(map(heads.text, names))


def _layout(shape: Sequence[int], dtype: np.dtype, chunk_bytes: int) -> list[bytes | int]:
    """The value of a leaf: bytes as they are, and numbers for so many bytes of the array."""
    count = math.prod(shape)
    if count * dtype.itemsize <= chunk_bytes:
        return _ndarray_layout(shape, dtype)
    step = max(1, chunk_bytes // dtype.itemsize)
    lengths = [min(step, count - start) for start in range(0, count, step)]
    axes = b"".join(heads.text(str(i)) + heads.uint(size) for i, size in enumerate(shape))
    layout = [heads.mapping(3), heads.text(_CHUNKED), heads.TRUE, heads.text("shape"), heads.mapping(len(shape))]
    layout += [axes, heads.text("chunks"), heads.mapping(len(lengths))]
    for i, length in enumerate(lengths):
        layout += [heads.text(str(i)), *_ndarray_layout((length,), dtype)]
    return layout


def _ndarray_layout(shape: Sequence[int], dtype: np.dtype) -> list[bytes | int]:
    length = math.prod(shape) * dtype.itemsize
    sizes = heads.array(len(shape)) + b"".join(map(heads.uint, shape))
    inside = heads.array(3) + sizes + heads.text(dtype.name) + heads.binary(length)
    return [heads.extension(len(inside) + length, _NDARRAY) + inside, length]
