"""Files of `torch.save` that hold a state dict: read safely and without copies, and written; no torch needed.

Such a file is a zip archive of stored members under one folder: `data.pkl` describes the tensors, `data/0`,
`data/1`, ... hold their storages, `byteorder` says how. The pickle is read by `torch_pickle`, which runs nothing.
"""

import dataclasses
import math
import os
import pathlib
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from lapa_jax import errors
from lapa_jax.convert import files, pickle_machine, torch_pickle

DTYPES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8, "BoolStorage": np.bool_,
}  # fmt: skip
"""torch's class of a storage -> dtype of its elements."""

OTHERS = {
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": "in torch's format before 1.6: load and save it again with torch",
    b"version https://git-lfs": "a git-lfs pointer and not the checkpoint: run git lfs pull, or download the file",
    b"<": "a web page by its looks: download the file itself",
    b"\x80": "a bare pickle, which could run anything when loaded: save the state dict with torch.save",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
}
"""How files begin that are often taken for one of ours, and what they are."""

_ALIGNMENT = 64
_BROKEN = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError, struct.error)
"""What `zipfile` raises on damaged archives."""


def read(
    path: str | os.PathLike, part: str | None = None, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """The tensors of a flat state dict by name: read-only views of the file, which is mapped and not loaded.

    Args:
        part: of a file that holds several things, the one to take: the name of a dict in it, or what the
            names begin with ("ema_model" for "ema_model.x"); it is left off the names.
        keep: whether a tensor of that name is wanted; the bytes of the others are not touched.

    Raises:
        UserError: not a file of torch.save, one that is damaged or cut off, or one that holds something else
            than a flat dict of dense tensors (says what). Checksums of what is read are verified.
    """
    archive = _Archive(pathlib.Path(path))
    state = _flat(torch_pickle.loads(memoryview(archive.record("data.pkl")), archive.path), part, archive.path)
    swap = _byteorder(archive) != sys.byteorder
    storages: dict[tuple, np.ndarray] = {}
    arrays = {}
    for name, tensor in ((name, tensor) for name, tensor in state.items() if keep(name)):
        identity = dataclasses.astuple(tensor.storage)
        if identity not in storages:
            storages[identity] = _storage(archive, tensor.storage, swap)
        arrays[name] = _view(storages[identity], tensor, f"{archive.path}: {pickle_machine.in_short(name)}")
    return arrays


class _Archive:
    """Members of a zip archive as views of one memory map."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = str(path)
        try:
            with path.open("rb") as file:
                begin = file.read(512)
                _check_kind(begin, self.path)
                members = zipfile.ZipFile(file).infolist()
            self._bytes = np.asarray(np.memmap(path, np.uint8, mode="r"))
        except OSError as error:
            raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
        except errors.UserError:
            raise
        except _BROKEN as error:
            raise errors.UserError(
                f"{path} is cut off or damaged: {path.stat().st_size} bytes without a readable list of contents at "
                f"their end ({pickle_machine.in_short(error)}); copy the file again"
            ) from None
        self._members = {member.filename: member for member in members}
        pickles = [name for name in self._members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise errors.UserError(
                f"{path} is a zip archive but none of torch.save: it has no data.pkl in its folder"
            )
        if len(self._members) < len(members) or sum(m.file_size for m in members) > len(self._bytes):
            raise errors.UserError(f"{path} has members that share a name or bytes: not a file of torch.save")
        self._folder = pickles[0].removesuffix("data.pkl")

    def __contains__(self, name: str) -> bool:
        return self._folder + name in self._members

    def record(self, name: str) -> np.ndarray:
        """uint8[bytes] of a member, checked against its checksum."""
        where = f"{self.path}: {pickle_machine.in_short(name)}"
        if name not in self:
            raise errors.UserError(f"{where} is not in the archive: copy the file again")
        member = self._members[self._folder + name]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise errors.UserError(f"{where} is compressed or encrypted, which torch.save does not do")
        header = self._bytes[member.header_offset :][:30].tobytes()
        lengths = struct.unpack("<26x2H", header) if header[:4] == b"PK\x03\x04" and len(header) == 30 else (0, 0)
        start = member.header_offset + 30 + sum(lengths)
        data = self._bytes[start : start + member.file_size]
        whole = any(lengths) and member.header_offset >= 0 and len(data) == member.file_size
        if not whole or zlib.crc32(data) != member.CRC:
            raise errors.UserError(
                f"{where} differs from its checksum: copy the file again (or, if it was saved without checksums, "
                "save it with them)"
            )
        return data


def _check_kind(begin: bytes, path: str) -> None:
    if begin.startswith(b"PK\x03\x04"):
        return
    if begin[257:262] == b"ustar":
        raise errors.UserError(
            f"{path} is a tar archive (torch before 0.4 wrote such): unpack it, or save it again"
        )
    kinds = [kind for magic, kind in OTHERS.items() if begin.startswith(magic)]
    kind = kinds[0] if kinds else "no zip archive, hence no file of torch.save" if begin else "empty: copy it again"
    raise errors.UserError(f"{path} is {kind}")


def _byteorder(archive: _Archive) -> str:
    order = archive.record("byteorder").tobytes() if "byteorder" in archive else b"little"
    if order not in (b"little", b"big"):
        raise errors.UserError(f"{archive.path}: byteorder is {pickle_machine.in_short(order)}, not little or big")
    return order.decode()


def _flat(root: Any, part: str | None, path: str) -> dict[str, torch_pickle.Tensor]:
    """The dict of tensors that the file holds, or its `part`."""
    if type(root) is not dict:
        raise errors.UserError(f"{path} holds a {type(root).__name__}, not a state dict: save model.state_dict()")
    if part is not None:
        chosen = root.get(part)
        below = {str(k).removeprefix(f"{part}."): v for k, v in root.items() if str(k).startswith(f"{part}.")}
        if not (isinstance(chosen, dict) or below):
            raise errors.UserError(f"{path} has no part {part!r}; it holds {contents(root)}")
        root = chosen if isinstance(chosen, dict) else below
    if not root or not all(isinstance(value, torch_pickle.Tensor) for value in root.values()):
        raise errors.UserError(
            f"{path} is not one flat state dict: it holds {contents(root) or 'nothing'}; say which part to take "
            "(--part=NAME), or save that state dict by itself"
        )
    return {str(key): value for key, value in root.items()}


def contents(state: Mapping[Any, Any], most: int = 6) -> str:
    """What a mapping holds, by the first part of its names: "'ema_model' (493 entries), 'lr' (float)"."""
    groups: dict[str, list[str]] = {}
    for key, value in state.items():
        kind = f"dict of {len(value)}" if isinstance(value, dict) else type(value).__name__
        groups.setdefault(str(key).split(".")[0], []).append(kind)
    shown = [
        f"{pickle_machine.in_short(head)} ({kinds[0] if len(kinds) == 1 else f'{len(kinds)} entries'})"
        for head, kinds in groups.items()
    ]
    return ", ".join(shown[:most] + ["..."] * (len(shown) > most))


def _storage(archive: _Archive, storage: torch_pickle.Storage, swap: bool) -> np.ndarray:
    """The elements of a storage."""
    dtype = np.dtype(DTYPES[storage.kind])
    data = archive.record(f"data/{storage.key}")
    if len(data) != storage.count * dtype.itemsize:
        raise errors.UserError(
            f"{archive.path}: data/{pickle_machine.in_short(storage.key)} has {len(data)} bytes, the pickle says "
            f"{storage.count} x {dtype.itemsize}: copy the file again"
        )
    if swap:
        data = data.view(f"u{dtype.itemsize}").byteswap()
    return data != 0 if dtype == np.bool_ else data.view(dtype)


def _view(elements: np.ndarray, tensor: torch_pickle.Tensor, where: str) -> np.ndarray:
    """The tensor as a view of its storage."""
    shape, size = tensor.shape, math.prod(tensor.shape)
    if math.prod(max(n, 1) for n in shape) > max(len(elements), 1 << 32 if size == 0 else 0):
        raise errors.UserError(f"{where} has shape {shape}, more than the {len(elements)} elements that are stored")
    if size == 0:
        return np.empty(shape, elements.dtype)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, tensor.strides, strict=True))
    if last >= len(elements):
        raise errors.UserError(
            f"{where} ends at element {last} of a storage of {len(elements)}: copy the file again"
        )
    strides = [stride * elements.itemsize * (n > 1) for n, stride in zip(shape, tensor.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(elements[tensor.offset :], shape, strides, writeable=False)


def write(path: str | os.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a flat state dict that `torch.load(path, weights_only=True)` reads; the same bytes every time.

    Raises:
        UserError: `path` exists or cannot be written, or an array's dtype has no counterpart.
    """
    described = {name: _described(str(i), name, array) for i, (name, array) in enumerate(tensors.items())}
    with files.new(path) as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, "data.pkl", torch_pickle.dumps(described))
        _add(archive, "byteorder", b"little")
        for i, array in enumerate(tensors.values()):
            _add(archive, f"data/{i}", _little(array))
        _add(archive, "version", b"3\n")


def _described(key: str, name: str, array: np.ndarray) -> torch_pickle.Tensor:
    kinds = [kind for kind, dtype in DTYPES.items() if array.dtype.newbyteorder("=") == dtype]
    if not kinds:
        raise errors.UserError(f"{name} is {array.dtype}, which torch's format does not know: cast it first")
    lengths = [max(n, 1) for n in array.shape]
    strides = tuple(math.prod(lengths[i + 1 :]) for i in range(array.ndim))
    return torch_pickle.Tensor(torch_pickle.Storage(kinds[0], key, array.size), 0, array.shape, strides)


def _little(array: np.ndarray) -> memoryview:
    """Its bytes, in row-major and little-endian order."""
    flat = np.asarray(array, order="C").reshape(-1)
    if (array.dtype.byteorder, sys.byteorder) in ((">", "little"), ("=", "big")):
        flat = flat.byteswap()
    return memoryview(flat.view(np.uint8))


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """A member whose data begin at a multiple of `_ALIGNMENT`, as torch wants it."""
    member = zipfile.ZipInfo(f"archive/{name}")
    member.file_size = len(data)
    begin = archive.fp.tell() + zipfile.sizeFileHeader + len(member.filename) + 4
    padding = -begin % _ALIGNMENT
    member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(member, "w") as record:
        record.write(data)
