"""Weights of the official language model (LAPA, LWM) straight onto a mesh, and back to a file of tux.

Every device's part of a leaf is cut from the mapped file, cast and placed before the next one is read, so a process
holds its own parts and little more, whatever the size of the file.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors
from lapa_jax.convert import lapa_names, mapped, placing, tux_stream

TRAIN_STATE = tux_stream.FLAVOURS["trainstate_params"]


def read(path: str | os.PathLike, abstract: Any, new: str = "$^", ignore: str = "$^") -> Any:
    """The parameters in a checkpoint of tux, laid out and cast as `abstract` says.

    Args:
        path: of the file, also as `params::path` or `trainstate_params::path`; of a train state the parameters.
        abstract: nested dict of jax.ShapeDtypeStruct, with shardings (without, on the default device).
        new: regular expression of our paths that begin anew, stored or not, as in the official code: `fresh`.
        ignore: regular expression of our paths that may be in the file and not in `abstract`.

    Raises:
        UserError: not such a file; a leaf that is missing, unknown, of another shape or not finite (names it).
    """
    wanted = flax.traverse_util.flatten_dict(dict(abstract), sep="/")
    stored = open_params(path)
    _check(stored, wanted, new, ignore, path)
    params = {}
    for name, leaf in wanted.items():
        params[name] = fresh(leaf, name) if re.search(new, name) else _place(stored[name], leaf, path)
    return flax.traverse_util.unflatten_dict(params, sep="/")


def open_params(path: str | os.PathLike) -> dict[str, mapped.Leaf | mapped.Stack]:
    """Our path -> the leaf on disk; of layers that are stored one by one, their stack. Nothing is loaded.

    Raises:
        UserError: not such a file, or one of another model.
    """
    leaves = tux_stream.read(path)
    if any(name.startswith(TRAIN_STATE) for name in leaves):
        leaves = tux_stream.chosen(leaves, TRAIN_STATE, os.fspath(path))
    try:
        return lapa_names.from_official(leaves, mapped.Stack)
    except errors.UserError as error:
        raise errors.UserError(f"{os.fspath(path)}: {error}") from None


def _check(stored: Mapping[str, Any], wanted: Mapping[str, Any], new: str, ignore: str, path: Any) -> None:
    """Names and shapes, before anything is read."""
    needed = {name: leaf for name, leaf in wanted.items() if not re.search(new, name)}
    missing = [name for name in needed if name not in stored]
    extra = [name for name in stored if name not in wanted and not re.search(ignore, name)]
    if missing or extra:
        raise errors.UserError(
            f"{path} and the model differ: missing {_in_short(missing)}; not in the model {_in_short(extra)}: "
            "give the vocabularies and heads of the file, or say what is new or to be ignored"
        )
    for name, leaf in needed.items():
        if stored[name].shape != tuple(leaf.shape):
            raise errors.UserError(
                f"{path}: {stored[name].name} is {stored[name].shape} there, and {name} is {tuple(leaf.shape)} in "
                "the model: give the sizes of the file, or say that it is new"
            )


def _in_short(names: list[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"


def _place(stored: mapped.Leaf | mapped.Stack, leaf: jax.ShapeDtypeStruct, path: Any) -> jax.Array:
    def read_part(index: tuple[slice, ...]) -> np.ndarray:
        values = stored.read(index, leaf.dtype)
        if not placing.finite(values):
            raise errors.UserError(f"{path}: {stored.name} holds infinities or NaN: take another checkpoint")
        return values

    return placing.spread(leaf, read_part)


def fresh(leaf: jax.ShapeDtypeStruct, name: str = "leaf") -> jax.Array:
    """What the official code puts where a checkpoint has no such leaf: LeCun's normal values of key 0.

    It draws each with the same key, and tables as if their rows were inputs, so that they come out larger than what
    its model starts with (standard deviation rows**-0.5).

    Raises:
        UserError: a vector, for which there is no such rule.
    """
    if len(leaf.shape) < 2:
        raise errors.UserError(f"{name} {tuple(leaf.shape)} cannot be new: only tables and kernels can")
    with jax.threefry_partitionable(False):  # the numbers that jax drew before 0.5
        values = jax.nn.initializers.lecun_normal()(jax.random.PRNGKey(0), leaf.shape, jnp.float32)
    values = np.asarray(values, leaf.dtype)
    return placing.spread(leaf, lambda index: values[index])


class _Rows:
    """A jax array, or one layer of it, as `tux_stream.write` takes it: rows leave the devices when asked for."""

    def __init__(self, name: str, array: jax.Array, layer: int | None = None) -> None:
        if not getattr(array, "is_fully_addressable", True):
            raise errors.UserError(f"{name} is spread over other processes: restore it on one host to write it")
        self.array, self.layer, self.dtype = array, layer, np.dtype(array.dtype)
        self.shape = tuple(array.shape if layer is None else array.shape[1:])

    def __getitem__(self, index: slice) -> np.ndarray:
        if self.layer is None:
            return self._rows(index.start, index.stop)
        return self._rows(self.layer, self.layer + 1)[0, index]

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the whole array, put together on the host: devices need not talk to each other."""
        if not isinstance(self.array, jax.Array):
            return self.array[start:stop]
        out = np.empty((stop - start, *self.array.shape[1:]), self.dtype)
        for shard in self.array.addressable_shards:
            low, high, _ = shard.index[0].indices(self.array.shape[0])
            first, last = max(start, low), min(stop, high)
            if shard.replica_id == 0 and first < last:
                rows = _take(shard.data, first - low, last - first)
                out[first - start : last - start, *shard.index[1:]] = rows
        return out


@jax.jit(static_argnums=2)
def _take(array: jax.Array, start: int, count: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(array, start, count)


def write(
    path: str | os.PathLike, params: Any, float_dtype: str | None = "bfloat16", scan_layers: bool = True
) -> None:
    """Write parameters as the official code does (`streaming_params`); it loads them as `params::path`.

    Args:
        params: nested dict as of `read`.
        float_dtype: of all leaves; None writes them as they are.
        scan_layers: all layers in one leaf, as in what is published; False writes them one by one.

    Raises:
        UserError: `path` exists or cannot be written; a parameter has no official counterpart.
    """
    flat = flax.traverse_util.flatten_dict(dict(params), sep="/")
    rows = {name: _Rows(name, leaf) for name, leaf in flat.items()}
    leaves = lapa_names.to_official(rows, None if scan_layers else _layers)
    tux_stream.write(path, leaves, float_dtype)


def _layers(rows: _Rows) -> list[_Rows]:
    return [_Rows("", rows.array, layer) for layer in range(rows.shape[0])]
