"""Positioned reads and file identities, for local paths and for any URL that fsspec knows."""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import shutil
import socket
import stat
import tempfile
from collections.abc import Sequence
from typing import Any

import fsspec
import google_crc32c

from lapa_jax import errors

READY = "lapa.json"
"""What a dataset folder of our own holds when it is whole: its provenance, written last."""

_OPEN_FILES = 256
_SAMPLE = 4096  # bytes at the start, middle and end of a file


class _File:
    """A local file that is closed when the last reader lets go of it, never under one."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def __del__(self):
        os.close(self.descriptor)


@functools.lru_cache(maxsize=_OPEN_FILES)
def _file(path: str, process: int) -> _File:
    del process  # a forked child opens its own
    return _File(os.open(path, os.O_RDONLY))


@functools.lru_cache(maxsize=64)
def _filesystem(url: str) -> Any:
    try:
        return fsspec.core.url_to_fs(url)[0]
    except (ImportError, ValueError) as error:
        raise errors.UserError(f"cannot open {url}: {error}") from error


def is_url(path: str) -> bool:
    return "://" in path


def read(path: str, offset: int, length: int) -> bytes:
    """Up to `length` bytes from `offset`: one positioned read; fewer at the end of the file."""
    if is_url(path):
        return _filesystem(path).cat_file(path, start=offset, end=offset + length)
    descriptor = _file(path, os.getpid())
    data = os.pread(descriptor.descriptor, length, offset)
    while 0 < len(data) < length and (
        more := os.pread(descriptor.descriptor, length - len(data), offset + len(data))
    ):
        data += more
    return data


def forget() -> None:
    """Close the files that were read, so that a file replaced under its name is opened anew."""
    _file.cache_clear()


def size_of(path: str) -> int:
    return _stat(path)[0]


def read_text(path: str) -> str:
    """The whole file as UTF-8.

    Raises:
        UserError: it is not there, or not UTF-8.
    """
    try:
        if is_url(path):
            return _filesystem(path).cat_file(path).decode("utf-8")
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise errors.UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error


def find(root: str, name: str) -> list[str]:
    """Folders at or below `root` that hold a file called `name`, sorted."""
    if is_url(root):
        system = _filesystem(root)
        found = [path for path in system.find(root) if path.rsplit("/", 1)[-1] == name]
        return sorted(system.unstrip_protocol(path.rsplit("/", 1)[0]) for path in found)
    return sorted(str(path.parent) for path in pathlib.Path(root).expanduser().rglob(name))


def exists(path: str) -> bool:
    return _filesystem(path).exists(path) if is_url(path) else os.path.exists(path)


def join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


def identities(paths: Sequence[str]) -> list[dict[str, Any]]:
    """name, size, time of change and checksum of a sample of each file.

    Raises:
        UserError: a file is not there.
    """
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(identity, paths))


def identity(path: str) -> dict[str, Any]:
    """As `identities`, of one file."""
    size, changed = _stat(path)
    places = sorted({0, max(size // 2 - _SAMPLE // 2, 0), max(size - _SAMPLE, 0)})
    checksum = 0
    for place in places:
        checksum = google_crc32c.extend(checksum, read(path, place, _SAMPLE))
    return {"name": path.rsplit("/", 1)[-1], "size": size, "changed": changed, "sample": checksum}


def _stat(path: str) -> tuple[int, str]:
    try:
        if is_url(path):
            info = _filesystem(path).info(path)
            changed = next(
                (info[k] for k in ("mtime", "updated", "LastModified", "ETag", "created") if k in info), ""
            )
            return int(info["size"]), str(changed)
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise errors.UserError(f"{path} is a folder and should be a file; fetch the dataset again")
        return found.st_size, str(found.st_mtime_ns)
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}; is the dataset whole?") from error


def digest(value: Any) -> str:
    """16 hex digits of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def cache_folder(chosen: str | None = None) -> pathlib.Path:
    """Where sidecars go: `chosen`, or LAPA_JAX_CACHE, or ~/.cache/lapa_jax; below it `data`."""
    root = chosen or os.environ.get("LAPA_JAX_CACHE") or pathlib.Path.home() / ".cache" / "lapa_jax"
    if is_url(str(root)):
        raise errors.UserError(f"data.cache {root} is a URL; indices are memory-mapped, give a local folder")
    return pathlib.Path(root).expanduser() / "data"


def make_folder(path: pathlib.Path) -> None:
    """A folder and those above it.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(
            f"cannot make the folder {path} ({error.strerror}); choose one that can be written (data.cache, --out)"
        ) from error


def partial_name(path: pathlib.Path) -> pathlib.Path:
    """Where this process writes what will be `path`; no other one does, on any host that shares the folder."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")


def write_json(path: pathlib.Path, value: Any) -> None:
    """The file is there when it is whole, or not at all."""
    partial = partial_name(path)
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


class NewFolder:
    """A folder filled under a temporary name and then given its own; the first one to finish wins."""

    def __init__(self, path: pathlib.Path):
        make_folder(path.parent)
        self._path = path

    def __enter__(self) -> pathlib.Path:
        self._partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{self._path.name}.partial.", dir=self._path.parent))
        return self._partial

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and not self._path.exists():
            try:
                os.rename(self._partial, self._path)
                return
            except OSError:
                if not self._path.exists():
                    raise
        shutil.rmtree(self._partial, ignore_errors=True)
