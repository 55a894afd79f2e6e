"""Pickles of nested dicts of numpy or jax arrays: read as data, never run; and written.

Such files hold parameters of Flax models. `pickle_machine` runs nothing; here is what a tree of arrays may refer
to, and what that describes. Written are plain dicts of numpy arrays, which numpy 1 and 2 read.
"""

import contextlib
import dataclasses
import math
import mmap
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from lapa_jax import errors
from lapa_jax.convert import files, pickle_machine
from lapa_jax.convert import pickle_writing as w
from lapa_jax.convert.pickle_machine import Global, Refused, in_short

MAX_DIMENSIONS = 16
MAX_DEPTH = 32
"""Dicts in dicts."""
OLD = "numpy.core.multiarray _reconstruct"
"""How numpy before 2 names the function, and all versions know it."""
RECONSTRUCT = {OLD, "numpy._core.multiarray _reconstruct"}
FROM_BUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
NDARRAY, DTYPE, BFLOAT16 = "numpy ndarray", "numpy dtype", "ml_dtypes bfloat16"
JAX = "jax._src.array _reconstruct_array"
FROZEN = "flax.core.frozen_dict FrozenDict"

Tree = dict[str, Any]
"""Nested dicts of arrays."""


def read(path: str | os.PathLike) -> Tree:
    """The arrays of a pickle, read-only, as a tree of plain dicts; FrozenDict and jax arrays become such.

    Takes as much memory as the file is long.

    Raises:
        UserError: no such file, a damaged one, or one that holds something else than a tree of arrays.
    """
    try:
        with pathlib.Path(path).open("rb") as file, contextlib.closing(_mapped(file)) as data:
            if data[:1] != b"\x80":
                raise errors.UserError(f"{path} is no pickle of arrays: {_looks_like(data[:512])}")
            return loads(data, str(path))
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error


def loads(pickle: bytes | BinaryIO, path: str) -> Tree:
    """Like `read`, of a pickle that begins as such; `path` is for messages."""
    root = _Machine().read(pickle, path)
    try:
        return _finished(root)
    except Refused as error:
        raise errors.UserError(f"{path}: {error}") from None


def _mapped(file: Any) -> mmap.mmap:
    if not os.fstat(file.fileno()).st_size:
        raise errors.UserError(f"{file.name} is empty: copy it again")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _looks_like(begin: bytes) -> str:
    kinds = {b"PK": "a zip archive, as torch.save writes", b"version https://git-lfs": "a git-lfs pointer"}
    kinds |= {b"<": "a web page", b"\x1f\x8b": "compressed with gzip"}
    known = [kind for magic, kind in kinds.items() if begin.startswith(magic)]
    return f"{known[0]} by its looks" if known else f"it begins with {in_short(begin[:8])}"


@dataclasses.dataclass(eq=False)
class _DType:
    """A type of numbers; BUILD gives it its byte order."""

    name: str
    order: str | None = None

    def made(self) -> np.dtype:
        if self.name == BFLOAT16:
            return np.dtype(ml_dtypes.bfloat16).newbyteorder(self.order or "=")
        return np.dtype(self.name).newbyteorder(self.order or "=")


@dataclasses.dataclass(eq=False)
class _Array:
    """An array; BUILD gives it its contents."""

    value: np.ndarray | None = None


class _Machine(pickle_machine.Machine):
    writer, content = "numpy", "tree of arrays"
    advice = "If you trust its origin, load it where that is installed and pickle a dict of numpy arrays"
    opcodes = pickle_machine.OPCODES | {
        "FRAME", "MEMOIZE", "STACK_GLOBAL", "SHORT_BINUNICODE", "BINUNICODE8",
        "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }  # fmt: skip
    names = frozenset({*RECONSTRUCT, *FROM_BUFFER, NDARRAY, DTYPE, BFLOAT16, JAX, FROZEN})

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        match arguments:
            case (dict() as tree,) if name == FROZEN:
                return tree
            case (str(kind), False, True) if name == DTYPE and re.fullmatch("[biufc][0-9]{1,2}", kind):
                return _DType(kind)
            case (Global(name=kind), False, True) if name == DTYPE and kind == BFLOAT16:
                return _DType(kind)
            case (Global(name=kind), (0,), b"b") if name in RECONSTRUCT and kind == NDARRAY:
                return _Array()
            case (bytes() | bytearray() as data, _DType() as dtype, tuple(shape), "C" | "F" as order):
                if name in FROM_BUFFER:
                    return _Array(_array(data, dtype, shape, order))
            case (Global(name=function), (Global(name=kind), (0,), b"b"), tuple(state), dict()):
                if name == JAX and function in RECONSTRUCT and kind == NDARRAY:
                    return _Array(_of_state(state))
        raise self.odd_call(name)

    def build(self, target: Any, state: Any) -> None:
        match target, state:
            case _Array(value=None), tuple():
                target.value = _of_state(state)
            case _DType(order=None), (int(), "<" | ">" | "|" | "=" as order, None, None, None, int(), int(), int()):
                target.order = order
            case _:
                raise Refused(f"its pickle sets the state of a {pickle_machine.kind_of(target)} as no array needs")


def _of_state(state: tuple[Any, ...]) -> np.ndarray:
    """The array of a state that numpy gives to __setstate__: (version, shape, dtype, is_fortran, bytes)."""
    match state:
        case (int(), tuple(shape), _DType() as dtype, bool() as fortran, bytes() as data):
            return _array(data, dtype, shape, "F" if fortran else "C")
    raise Refused("its pickle has an array whose state is not (version, shape, dtype, order, bytes)")


def _array(data: bytes | bytearray, dtype: _DType, shape: tuple[Any, ...], order: str) -> np.ndarray:
    """A view of `data`, whose length is checked first."""
    if len(shape) > MAX_DIMENSIONS or not all(type(size) is int and 0 <= size < 1 << 40 for size in shape):
        raise Refused("its pickle has an array of an impossible shape")
    try:
        made = dtype.made()
    except TypeError:
        raise Refused(f"its pickle has an array of {dtype.name}, which numpy does not know") from None
    if math.prod(shape) * made.itemsize != len(data):
        raise Refused(f"its pickle has an array {in_short(str(shape))} of {made} with {len(data)} bytes")
    array = np.frombuffer(data, made).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _finished(root: Any) -> Tree:
    """`root` with arrays for descriptions; nothing may be left open, and no dict be in two places."""
    seen: set[int] = set()

    def finished(tree: Any, path: str, depth: int) -> Any:
        if type(tree) is _Array and tree.value is not None:
            return tree.value
        if type(tree) is not dict:
            held = "unfinished array" if type(tree) is _Array else pickle_machine.kind_of(tree)
            raise Refused(f"it holds a {held} at {in_short(path or 'its top')}, not a tree of arrays")
        if id(tree) in seen or depth == MAX_DEPTH:
            raise Refused(f"it holds the dict at {in_short(path)} twice, or too deep: not a tree of arrays")
        seen.add(id(tree))
        if not all(type(key) is str for key in tree):
            raise Refused(f"a dict at {in_short(path or 'its top')} has keys that are no names")
        return {key: finished(value, f"{path}/{key}".strip("/"), depth + 1) for key, value in tree.items()}

    tree = finished(root, "", 0)
    if not isinstance(tree, dict):
        raise Refused("it holds one array, not a tree of arrays")
    return tree


def write(path: str | os.PathLike, tree: Mapping[str, Any]) -> None:
    """Pickle nested dicts of arrays, so that any Python with numpy loads them; the same bytes every time.

    Raises:
        UserError: `path` exists or cannot be written, or an array holds no numbers of numpy's own.
    """
    with files.new(path) as file:
        file.write(w.CODE["PROTO"] + b"\x04")
        file.writelines(_program(tree, ""))
        file.write(w.CODE["STOP"])


def _program(value: Any, path: str) -> Iterator[bytes | memoryview]:
    if isinstance(value, Mapping):
        yield w.CODE["EMPTY_DICT"] + w.CODE["MARK"]
        for key, item in value.items():
            yield w.string(key)
            yield from _program(item, f"{path}/{key}")
        yield w.CODE["SETITEMS"]
        return
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise errors.UserError(f"{path} is {array.dtype}, which numpy alone does not load: cast it to float32")
    none, false, true = (w.CODE[name] for name in ("NONE", "NEWFALSE", "NEWTRUE"))
    order, kind = array.dtype.str[0], array.dtype.str[1:]
    numbers = (w.integer(number) for number in (-1, -1, 0))
    yield w.call(OLD, w.reference(NDARRAY), w.tuple_(w.integer(0)), w.CODE["SHORT_BINBYTES"] + b"\x01b")
    yield w.CODE["MARK"] + w.integer(1) + w.tuple_(*map(w.integer, array.shape))
    yield w.call(DTYPE, w.string(kind), false, true)
    yield w.tuple_(w.integer(3), w.string(order), none, none, none, *numbers) + w.CODE["BUILD"] + false
    yield w.CODE["BINBYTES8"] + array.nbytes.to_bytes(8, "little")
    yield memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    yield w.CODE["TUPLE"] + w.CODE["BUILD"]
