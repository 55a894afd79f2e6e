"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

from lapa_jax import errors


@contextlib.contextmanager
def new(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write; it stands at `path` once the block has ended without an error.

    Raises:
        UserError: `path` exists or cannot be written.
    """
    path = pathlib.Path(path)
    if path.exists():
        raise errors.UserError(f"{path} exists: give another name, or delete it")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.rename(path)
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
