"""Mesh, one rule table from parameter path to PartitionSpec, constraints and global batches.

Mesh axes: `data` (replicas), `fsdp` (parameters and batch split), `tensor` (inside a matrix product), `sequence`
(tokens of a row split).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lapa_jax import device_order, errors

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH = P(("data", "fsdp"))
"""Spec of a batch: its leading axis is split over every device that does not share a matrix."""

RULES: tuple[tuple[str, P], ...] = (
    # (regular expression searched in the '/'-joined path, spec of the TRAILING dimensions)
    (r"embed_\w+/embedding$", P(("fsdp", "tensor"), None)),
    (r"attention/(wq|wk|wv)/kernel$", P("fsdp", "tensor")),
    (r"attention/wo/kernel$", P("tensor", "fsdp")),
    (r"feed_forward/(w1|w3)/kernel$", P("fsdp", "tensor")),
    (r"feed_forward/w2/kernel$", P("tensor", "fsdp")),
    (r"(head_\w+|project\w*|patch_embed|to_pixels)/kernel$", P("fsdp", "tensor")),
    (r"(attention|cross_attention)\w*/(to_q|to_kv)/kernel$", P("fsdp", "tensor")),
    (r"(attention|cross_attention)\w*/to_out/kernel$", P("tensor", "fsdp")),
    (r"(feed_forward|ff)\w*/(up|in)\w*/kernel$", P("fsdp", "tensor")),
    (r"(feed_forward|ff)\w*/(down|out)\w*/kernel$", P("tensor", "fsdp")),
    (r"position_bias/\w+/kernel$", P("fsdp", "tensor")),
    (r"(^|/)(encoder|decoder)/(\w+/)*conv\w*/kernel$", P(None, "fsdp")),  # of the image tokenizer
    (r"lora_a$", P("fsdp", None)),
    (r"lora_b$", P(None, "fsdp")),
    # Small ones stay whole; action heads too: XLA gets gradients wrong through a reshape of split columns.
    (r"(conv|film|peg|dense)\w*/kernel$", P()),
    (r"(scale|bias|null_kv|codebook|gamma|(place|query)_embedding)$", P()),
    (r"(batch_stats|codebook)/.*(mean|cov|count|counts|codewords|weight|rows|used|revived|steps|batch_size)$", P()),
)


def make_mesh(
    data: int = 1, fsdp: int = -1, tensor: int = 1, sequence: int = 1, devices: Sequence | None = None
) -> Mesh:
    """A mesh over `devices` (all by default), ordered by their network; one axis may be -1, the devices left over.

    Raises:
        UserError: the axes do not multiply to the number of devices, or cannot be laid over their slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dict(zip(AXES, (data, fsdp, tensor, sequence), strict=True))
    given = [size for size in sizes.values() if size != -1]
    known = int(np.prod(given))
    left, rest = divmod(len(devices), max(known, 1))
    if len(given) < len(AXES) - 1 or min(given) < 1 or rest or (len(given) == len(AXES) and left != 1):
        axes = " ".join(f"{name}={size}" for name, size in sizes.items())
        raise errors.UserError(
            f"mesh {axes} does not fit {len(devices)} devices: "
            "set --config.mesh so that the axes multiply to that number (one may be -1)"
        )
    sizes = {name: left if size == -1 else size for name, size in sizes.items()}
    return Mesh(device_order.arrange(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def constrain(x: jax.Array, *spec: Any) -> jax.Array:
    """`x` with a sharding constraint of its leading axes; does nothing outside a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*spec))


def constrain_batch(x: jax.Array) -> jax.Array:
    """`x` with its leading axis split as a batch."""
    return constrain(x, ("data", "fsdp"))


def constrain_tokens(x: jax.Array) -> jax.Array:
    """[B, T, ...] with rows split as a batch, and the T tokens of each over `sequence` where it divides them."""
    return constrain(x, ("data", "fsdp"), None if x.shape[1] % along("sequence") else "sequence")


def constrain_heads(x: jax.Array, count: int) -> jax.Array:
    """float[B, T, count * D] with whole heads on each device, all where `tensor` does not divide their number.

    Weights may be split within a head; what is computed with them is put together before it becomes heads.
    """
    return constrain_tokens(x) if count % along("tensor") else x


def along(axis: str) -> int:
    """Devices along an axis of the mesh that is set; 1 outside a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def splits(rows: int, *heads: int) -> tuple[tuple[str, str] | None, str | None]:
    """Axes of the mesh that is set over which rows, and heads of queries and keys, are split, None where they do
    not divide.

    For kernels that each device calls by itself.
    """
    over_rows = ("data", "fsdp") if rows % (along("data") * along("fsdp")) == 0 else None
    over_heads = "tensor" if all(count % along("tensor") == 0 for count in heads) else None
    return over_rows, over_heads


def path_name(path: Sequence[Any]) -> str:
    """'/'-joined name of a pytree path: dict keys, dataclass fields, sequence indices."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def spec_for(name: str, shape: Sequence[int], axis_sizes: Mapping[str, int]) -> P:
    """The spec of one leaf. Scalars are whole; an axis that does not divide its dimension is dropped
    (a table of 8 codes stays whole on 16 devices).

    Raises:
        UserError: no rule matches the path.
    """
    if not shape:
        return P()
    for pattern, spec in RULES:
        if re.search(pattern, name):
            return _fit(spec, shape, axis_sizes)
    raise errors.UserError(f"no sharding rule matches parameter {name} {tuple(shape)}: add one to RULES")


def _fit(spec: P, shape: Sequence[int], axis_sizes: Mapping[str, int]) -> P:
    leading = len(shape) - len(spec)
    if leading < 0:  # a vector under a matrix rule
        return P()
    kept = [None] * leading
    for size, axes in zip(shape[leading:], spec, strict=True):
        names = () if axes is None else (axes if isinstance(axes, tuple) else (axes,))
        kept.append(axes if size % int(np.prod([axis_sizes[n] for n in names])) == 0 else None)
    return P(*kept)


def tree_shardings(mesh: Mesh, abstract: Any) -> Any:
    """NamedSharding of every leaf of a tree of arrays or ShapeDtypeStructs."""
    sizes = dict(mesh.shape)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_for(path_name(path), leaf.shape, sizes)), abstract
    )


def constrain_tree(tree: Any) -> Any:
    """A tree with each leaf where RULES put it; does nothing outside a mesh. For what a program gives back: XLA
    otherwise chooses, and the next call compiles again for its choice."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: constrain(leaf, *spec_for(path_name(path), leaf.shape, sizes)) if sizes else leaf, tree
    )


def global_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Arrays over the whole mesh from this process's rows of a batch.

    Raises:
        UserError: the batch does not divide over the mesh.
    """
    sharding = NamedSharding(mesh, BATCH)
    count = batch_share(mesh)["process_count"]
    for name, rows in batch.items():
        _check_rows(mesh, name, len(rows) * count)
    return {
        k: jax.make_array_from_process_local_data(sharding, v, (len(v) * count, *v.shape[1:]))
        for k, v in batch.items()
    }


def whole_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Arrays over the whole mesh from a batch that every process has whole.

    Raises:
        UserError: the batch does not divide over the mesh.
    """
    sharding = NamedSharding(mesh, BATCH)
    for name, rows in batch.items():
        _check_rows(mesh, name, len(rows))
    return {k: jax.make_array_from_callback(v.shape, sharding, v.__getitem__) for k, v in batch.items()}


def _check_rows(mesh: Mesh, name: str, rows: int) -> None:
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % shards:
        raise errors.UserError(
            f"batch of {rows} rows ({name}) does not divide over {shards} devices: "
            "set --config.batch_size to a multiple of data*fsdp"
        )


@functools.lru_cache
def batch_share(mesh: Mesh) -> dict[str, int]:
    """Which share of a batch's rows this process has to bring: process_index of process_count.

    Processes between which a matrix is split compute the same rows: these are one share.

    Raises:
        UserError: the shares of two processes overlap in part, or differ in size.
    """
    axes = [mesh.axis_names.index(axis) for axis in BATCH[0]]
    held: dict[int, set[tuple[int, ...]]] = {}
    for place, device in np.ndenumerate(mesh.devices):
        held.setdefault(device.process_index, set()).add(tuple(place[axis] for axis in axes))
    shares = sorted({tuple(sorted(rows)) for rows in held.values()})
    total = sum(len(rows) for rows in shares)
    if len({len(rows) for rows in shares}) > 1 or total != np.prod([mesh.devices.shape[axis] for axis in axes]):
        raise errors.UserError(
            f"mesh {dict(mesh.shape)}: parts of a batch on different processes overlap, or differ in size; "
            "let data*fsdp divide, or be divided by, the number of processes"
        )
    mine = tuple(sorted(held.get(jax.process_index(), ())))
    return dict(process_index=shares.index(mine), process_count=len(shares))


def fetched(tree: Any) -> Any:
    """Arrays as numpy in every process, whichever devices they are on; all processes have to call it."""

    def fetch(x: jax.Array) -> np.ndarray:
        return np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(fetch, tree)
