"""msgpack with numpy arrays, as openpi's policy servers and clients send it.

An array is a map of four, its keys msgpack's `bin`: `__ndarray__` (true), `data` (bytes in C order), `dtype`
(numpy's short name, such as `|u1`) and `shape`. A numpy scalar is `__npgeneric__` (true), `data` (the number) and
`dtype`. Source: msgpack_numpy.py of the package openpi-client, version 0.1.2.

Nothing that arrives is trusted: numbers and booleans are the only types of arrays, their bytes must fill their
shape, and depth and counts are limited. Nothing here can run what it reads.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

MAX_DEPTH = 8
"""Maps and lists inside one another."""
MAX_LENGTH = 1024
"""Entries of a map or list. msgpack makes room for as many as are announced, at each depth."""
MAX_ITEMS = 16384
"""Entries of all maps and lists of a message together; what is in arrays does not count."""
MAX_DIMS = 8

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_ARRAY, _SCALAR, _DATA, _TYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"


class BadMessage(ValueError):
    """Bytes that are no message of this protocol; says where it departs from it."""


def pack(message: Any) -> bytes:
    """A message of dicts, lists, text, numbers and numpy arrays as bytes.

    Raises:
        TypeError: something else is in it, or an array that is not of numbers.
    """
    return msgpack.packb(message, default=_plain)


def unpack(data: bytes) -> Any:
    """What `pack` was given; arrays are read-only views into `data`.

    Raises:
        BadMessage: for anything else, whatever the bytes are.
    """
    count = _Count()
    try:
        message = msgpack.unpackb(
            data,
            object_hook=functools.partial(_filled, count),
            list_hook=count.add,
            ext_hook=_no_extension,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
        )
    except BadMessage:
        raise
    except RecursionError:
        raise BadMessage("maps and lists are nested too deep") from None
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise BadMessage("not msgpack: %s" % (str(error) or type(error).__name__)) from None
    _check_depth(message)
    return message


def _plain(value: Any) -> Any:
    """What msgpack does not know, as a map."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"cannot send a {type(value).__name__}: give arrays, numbers, text, lists and dicts")
    if not _DTYPE.fullmatch(value.dtype.str):
        raise TypeError(f"cannot send an array of {value.dtype}: give numbers of at most 8 bytes")
    if isinstance(value, np.ndarray):
        return {_ARRAY: True, _DATA: value.tobytes(), _TYPE: value.dtype.str, _SHAPE: value.shape}
    return {_SCALAR: True, _DATA: value.item(), _TYPE: value.dtype.str}


class _Count:
    """Entries seen so far: each may be one byte in the message and 64 in memory."""

    def __init__(self) -> None:
        self.items = 0

    def add(self, found: Any) -> Any:
        self.items += 1 + len(found)
        if self.items > MAX_ITEMS:
            raise BadMessage(f"more than {MAX_ITEMS} entries in maps and lists: send images as arrays")
        return found


def _filled(count: _Count, found: Mapping) -> Any:
    """An array or a scalar for its map; other maps as they are."""
    if _ARRAY in found:
        return array(found.get(_DATA), found.get(_TYPE), found.get(_SHAPE))
    if _SCALAR in found:
        return _scalar(found.get(_DATA), found.get(_TYPE))
    return count.add(found)


def array(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    """A read-only array over `data`, which must be exactly as long as dtype and shape say.

    Raises:
        BadMessage: it is not, or one of the three is not what it should be.
    """
    kind = _dtype(dtype)
    if not isinstance(data, bytes):
        raise BadMessage(f"the data of an array are bytes, not {type(data).__name__}")
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_DIMS:
        raise BadMessage(f"the shape of an array is a list of at most {MAX_DIMS} numbers")
    if not all(type(size) is int and 0 <= size < 2**31 for size in shape):
        raise BadMessage("a shape is made of whole numbers of 0 or more")
    if (wanted := math.prod(shape) * kind.itemsize) != len(data):
        raise BadMessage(f"{kind}{list(shape)} is {wanted} bytes, not {len(data)}")
    try:
        return np.frombuffer(data, kind).reshape(shape) if data else np.empty(shape, kind)
    except ValueError as error:  # one size is 0 and the others are beyond what numpy can count
        raise BadMessage(f"shape {list(shape)}: {error}") from None


def _scalar(value: Any, dtype: Any) -> Any:
    kind = _dtype(dtype)
    if not isinstance(value, (bool, int, float)):
        raise BadMessage(f"a numpy scalar is a number, not {type(value).__name__}")
    try:
        return kind.type(value)
    except (OverflowError, ValueError):
        raise BadMessage(f"{value} does not fit {kind}") from None


def _dtype(name: Any) -> np.dtype:
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise BadMessage(f"{name!r:.40} is no type of arrays here: b1, i1 to i8, u1 to u8, f2 to f8")
    return np.dtype(name)


def _no_extension(code: int, data: bytes) -> Any:
    raise BadMessage(f"extension type {code}: this protocol has none")


def _check_depth(message: Any) -> None:
    layer = [message]
    for _ in range(MAX_DEPTH + 1):
        layer = [inner for one in layer for inner in _inside(one)]
        if not layer:
            return
    raise BadMessage(f"maps and lists are nested more than {MAX_DEPTH} deep")


def _inside(one: Any) -> Any:
    if isinstance(one, msgpack.Timestamp):
        raise BadMessage("a time stamp: this protocol has none")
    if isinstance(one, dict):
        return one.values()
    return one if isinstance(one, list) else ()
