"""Frozen image encoders by the path of their weights: an image tokenizer, or a tower."""

import dataclasses
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import checkpoints, errors, trained
from lapa_jax.convert import towers
from lapa_jax.data.stored import storage
from lapa_jax.models.image_encoders import ImageEncoder


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load` found.

    Attributes:
        encoder: the network.
        variables: its weights, of a tower on the host.
        provenance: what it is, as JSON.
    """

    encoder: ImageEncoder
    variables: Any
    provenance: Mapping[str, Any]


def load(
    path: str,
    mesh: jax.sharding.Mesh,
    image_size: int | None = None,
    ids: bool | None = None,
    pool: int = 1,
    dtype: str = "float32",
) -> Loaded:
    """The encoder at `path`.

    Args:
        path: folder of a `train_tokenizer` run, or what `towers.load_tower` reads.
        mesh: that the weights of a tokenizer are laid out on.
        image_size: pixels a side; None: those it was trained on.
        ids: whether ids are wanted, or features; None: ids of a tokenizer, features of a tower.
        pool: of features, average squares of so many cells a side.
        dtype: of a tower's computation.

    Raises:
        UserError: nothing there that encodes, it gives something else, or it cannot see images of that size.
    """
    place = pathlib.Path(path).expanduser()
    if not place.exists():
        raise errors.UserError(f"no encoder at {path}: give the folder of a train_tokenizer run, or a tower")
    if any((place / name).exists() for name in ("checkpoints", "state")):
        found = trained.load_tokenizer(path, mesh)
        config = checkpoints.load_json(path, "config")
        weights = f"{storage.digest(config)} at step {checkpoints.resolve(path).name}"
        kind, spec, size, variables = "tokenizer", config["model"], found.image_size, found.variables
    else:
        if ids:
            raise errors.UserError(f"{path} is a tower, which gives features, and ids are wanted: give a tokenizer")
        spec, variables = towers.load_tower(path, dtype)
        size, weights = spec["image_size"] // spec["patch_size"] * spec["patch_size"], checksum(variables)
        kind, ids = "tower", False
    encoder = ImageEncoder(kind, spec, image_size or size, True if ids is None else ids, pool)
    side = encoder.image_size
    jax.eval_shape(encoder, variables, jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8))  # says what is wrong
    return Loaded(encoder, variables, {**encoder.to_json(), "weights": weights})


def checksum(params: Any) -> str:
    """8 hex digits of the numbers in a tree of arrays."""
    value = 0
    for leaf in jax.tree.leaves(params):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return f"{value:08x}"
