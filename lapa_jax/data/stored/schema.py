"""What the records of an RLDS dataset hold: features.json as a flat table of columns.

Names are relative to `steps` ("observation/image_0", "action/world_vector"); features of the episode
keep their own ("episode_metadata/file_path").
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lapa_jax.data.stored import example

MAX_ELEMENTS = 128
"""Arrays with more numbers a step (embeddings, depth maps) are left in the records."""


class Mismatch(ValueError):
    """A record that does not hold what the features say."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One feature.

    Attributes:
        name: see the module's docstring.
        key: its name in the record.
        kind: "image" (encoded), "array", "text", "codes" (a text as an array of code points) or
            "left" (not indexed; `why` says for what reason).
        per_step: whether it has a value a step; otherwise one an episode.
        shape: of one value; of the decoded image for images, -1 where it varies.
        dtype: of the values.
        encoding: "none", "bytes" or "zlib", as in tfds.features.Encoding.
    """

    name: str
    key: str
    kind: str
    per_step: bool
    shape: tuple[int, ...] = ()
    dtype: str = ""
    encoding: str = "none"
    why: str = ""

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def columns(tree: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a tree of `Leaf`s with "steps" at its top level, by name."""
    return tuple(sorted(_walk(tree, ""), key=lambda column: column.name))


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A feature of features.json without TFDS: what `column_of` needs to know of it."""

    kind: str  # "image", "tensor", "text" or another feature's class name
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = "none"


def _walk(tree: Mapping[str, Any], key: str) -> Iterator[Column]:
    for name, value in tree.items():
        path = f"{key}/{name}" if key else name
        if isinstance(value, Leaf):
            per_step = path.startswith("steps/")
            yield column_of(value, path.removeprefix("steps/"), path, per_step)
        else:
            yield from _walk(value, path)


def column_of(leaf: Leaf, name: str, key: str, per_step: bool) -> Column:
    """How a feature is indexed."""
    shape = tuple(-1 if size is None else int(size) for size in leaf.shape)
    column = Column(name, key, "left", per_step, shape, leaf.dtype, leaf.encoding)
    kind, why = _kind(leaf, column)
    return dataclasses.replace(column, kind=kind, why=why)


def _kind(leaf: Leaf, column: Column) -> tuple[str, str]:
    if leaf.kind == "image":
        return ("image", "") if column.per_step else ("left", "an image of the episode")
    if leaf.kind == "text" or (leaf.kind == "tensor" and leaf.dtype == "object"):
        return ("text", "") if column.shape == () else ("left", "a list of strings")
    if leaf.kind != "tensor":
        return "left", f"a {leaf.kind}"
    if -1 in column.shape:
        return "left", "of varying shape"
    if len(column.shape) == 1 and np.dtype(leaf.dtype).kind in "iu" and column.name.endswith("instruction"):
        return "codes", ""
    if column.elements > MAX_ELEMENTS:
        return "left", f"{column.elements} numbers a step"
    return "array", ""


def array(record: bytes, features: Mapping[str, example.Feature], column: Column) -> np.ndarray:
    """[n, *shape] of one record: n steps, or 1 for a feature of the episode.

    Raises:
        Mismatch: missing, of another kind, or of a length that is no multiple of the shape.
    """
    feature = _found(features, column)
    if column.encoding != "none":
        return _decoded(record, feature, column)
    dtype = np.dtype(column.dtype)
    values = example.floats(record, feature) if dtype.kind == "f" else example.ints(record, feature)
    if values.size % max(column.elements, 1):
        raise Mismatch(f"{column.key} has {values.size} numbers, no multiple of its shape {column.shape}")
    values = values.view(np.uint64) if dtype == np.uint64 else values
    return values.astype(dtype).reshape(-1, *column.shape)


def _decoded(record: bytes, feature: example.Feature, column: Column) -> np.ndarray:
    dtype, rows = np.dtype(column.dtype), []
    for start, stop in example.byte_values(record, feature):
        data = record[start:stop]
        expected = column.elements * dtype.itemsize
        if column.encoding == "zlib":
            inflate = zlib.decompressobj()
            try:
                data = inflate.decompress(data, expected + 1)  # never more than the shape holds
            except zlib.error as error:
                raise Mismatch(f"{column.key} is not zlib data ({error})") from None
        if len(data) != expected:
            raise Mismatch(f"{column.key} has {len(data)} bytes and not the {expected} of its shape {column.shape}")
        rows.append(np.frombuffer(data, dtype).reshape(column.shape))
    return np.stack(rows) if rows else np.zeros((0, *column.shape), dtype)


def spans(features: Mapping[str, example.Feature], record: bytes, column: Column) -> list[example.Span]:
    """Where the values of a bytes feature lie in the record."""
    return example.byte_values(record, _found(features, column))


def text(record: bytes, features: Mapping[str, example.Feature], column: Column) -> str:
    """The first value: of the first step, or of the episode; "" when there is none."""
    if column.kind == "codes":
        rows = array(record, features, column)
        return from_codes(rows[0], column.key) if len(rows) else ""
    found = spans(features, record, column)
    if not found:
        return ""
    try:
        return record[slice(*found[0])].decode("utf-8")
    except UnicodeDecodeError as error:
        raise Mismatch(f"{column.key} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def from_codes(codes: np.ndarray, key: str) -> str:
    """The text of an integer array of Unicode code points that is padded with zeros."""
    ended = np.flatnonzero(codes == 0)
    kept = codes[: ended[0]] if len(ended) else codes
    try:
        return "".join(map(chr, kept.tolist()))
    except (ValueError, OverflowError):
        raise Mismatch(f"{key} holds numbers that are no Unicode code points (such as {int(kept.max())})") from None


def _found(features: Mapping[str, example.Feature], column: Column) -> example.Feature:
    feature = features.get(column.key)
    if feature is None:
        raise Mismatch(f"{column.key} is not in the record; it has {', '.join(sorted(features)[:12])}")
    return feature
