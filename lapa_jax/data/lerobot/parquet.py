"""Columns of parquet files as numpy arrays and bytes. The only file that imports pyarrow."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lapa_jax import errors

Table = Any  # pyarrow.Table, which is not imported before it is needed


class File:
    """The footer of one parquet file; holds no open file, so that threads can share it.

    Attributes:
        path: of the file.
        columns: names of its columns.

    Raises:
        UserError: the file is missing or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = path
        self._metadata = None
        with self._opened() as file:
            self._metadata = file.metadata
            self.columns: list[str] = file.schema_arrow.names
        self._ranges: dict[str, np.ndarray] = {}

    def groups_of(self, key: str, value: int) -> tuple[int, ...]:
        """Row groups that can hold rows in which the column `key` is `value`, by their statistics."""
        if key not in self._ranges:
            groups = [self._metadata.row_group(i) for i in range(self._metadata.num_row_groups)]
            self._ranges[key] = np.array([_range(group, key) for group in groups]).reshape(-1, 2)
        low, high = self._ranges[key].T
        return tuple(np.flatnonzero((low <= value) & (value <= high)).tolist())

    def read(self, names: Collection[str], groups: Sequence[int] | None = None) -> Table:
        """The columns `names` of some row groups, or of all.

        Raises:
            UserError: one of the columns is missing, or the file is damaged.
        """
        missing = sorted(set(names) - set(self.columns))
        if missing:
            raise errors.UserError(
                f"{self.path}: no column {missing[0]!r} among its {len(self.columns)}; "
                "correct meta/info.json or fetch the file again"
            )
        groups = range(self._metadata.num_row_groups) if groups is None else groups
        with self._opened() as file:
            # One thread: callers are the threads and processes of a loader.
            return file.read_row_groups(list(groups), columns=list(names), use_threads=False)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        _pyarrow()
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path, metadata=self._metadata) as file:
                yield file
        except FileNotFoundError as error:
            raise errors.UserError(f"no file {self.path}; fetch the dataset again") from error
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise errors.UserError(f"{self.path} is damaged or not parquet ({reason}); fetch it again") from error


def rows(path: str | Path, names: Collection[str]) -> list[dict[str, Any]]:
    """The columns `names` of a small file, a dict a row."""
    return File(path).read(names).to_pylist()


def rows_where(table: Table, key: str, value: int) -> Table:
    """The rows in which the column `key` is `value`, in stored order."""
    _, compute = _pyarrow()
    return table.filter(compute.equal(table[key], value))


def vectors(table: Table, key: str, where: str) -> np.ndarray:
    """A column of numbers or of lists of as many numbers: number[T, D], D = 1 for plain numbers.

    Args:
        where: the file, for messages.

    Raises:
        UserError: the column has missing values, lists of several lengths, or no numbers in it.
    """
    pa, compute = _pyarrow()
    array = _one_array(table, key)
    _no_missing(array, key, where)
    width = 1
    if _is_list(pa, array.type):
        lengths = compute.list_value_length(array).to_numpy(zero_copy_only=False)
        width = int(lengths[0]) if len(lengths) else 0
        if (lengths != width).any():
            row = int(np.argmax(lengths != width))
            raise errors.UserError(
                f"{where}: column {key!r} has {width} values in row 0 and {lengths[row]} in row {row}; "
                "write it again with as many in every row"
            )
        array = array.flatten()
        _no_missing(array, key, where)
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise errors.UserError(
            f"{where}: column {key!r} holds {table[key].type}, not numbers or flat lists of them; "
            "choose another column"
        )
    return array.to_numpy(zero_copy_only=False).reshape(len(table), width)


def scalars(table: Table, key: str, where: str) -> np.ndarray:
    """A column of plain numbers, or of lists of one: number[T].

    Raises:
        UserError: as `vectors`, or there are several numbers in a row.
    """
    values = vectors(table, key, where)
    if values.shape[1] != 1:
        raise errors.UserError(f"{where}: column {key!r} has {values.shape[1]} values a row; it must have one")
    return values[:, 0]


def encoded_images(table: Table, key: str, where: str) -> tuple[bytes, ...]:
    """A column of images, stored as struct {bytes, path} or as bytes: one encoded image a row.

    Raises:
        UserError: rows name a file instead of holding its bytes, or the column is of another type.
    """
    pa, compute = _pyarrow()
    array = _one_array(table, key)
    if pa.types.is_struct(array.type) and array.type.get_field_index("bytes") >= 0:
        array = compute.struct_field(array, "bytes")
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null)
    if not any(is_kind(array.type) for is_kind in kinds):
        raise errors.UserError(
            f"{where}: column {key!r} holds {table[key].type}, not images; correct its dtype in meta/info.json"
        )
    images = tuple(array.to_pylist())
    if not all(images):
        row = next(i for i, image in enumerate(images) if not image)
        raise errors.UserError(
            f"{where}: row {row} of {key!r} has no image bytes; export the dataset with images embedded"
        )
    return images


def _range(group: Any, key: str) -> tuple[float, float]:
    """Least and largest value of a column in a row group, as far as its statistics say."""
    for i in range(group.num_columns):
        column = group.column(i)
        if column.path_in_schema == key and column.is_stats_set and column.statistics.has_min_max:
            return column.statistics.min, column.statistics.max
    return -np.inf, np.inf


def _one_array(table: Table, key: str) -> Any:
    array = table[key].combine_chunks()
    return getattr(array, "storage", array)  # `datasets` stores tensors as an extension of lists


def _is_list(pa: ModuleType, kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _no_missing(array: Any, key: str, where: str) -> None:
    if array.null_count:
        raise errors.UserError(
            f"{where}: column {key!r} has {array.null_count} missing values; fill them or drop the episode"
        )


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError as error:
        raise errors.UserError(
            "reading LeRobot datasets needs pyarrow; run `pip install 'lapa_jax[lerobot]'`"
        ) from error
    return pyarrow, pyarrow.compute
