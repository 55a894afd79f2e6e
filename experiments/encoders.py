"""Frozen encoders of frames by the path of their weights: ids of an image tokenizer, or features of a tower."""

import dataclasses
import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import checkpoints, errors, sharding, trained
from lapa_jax.convert import towers
from lapa_jax.data.stored import storage
from lapa_jax.models import image_tokens, vision


@dataclasses.dataclass(frozen=True)
class Encoder:
    """What `load` found.

    Attributes:
        encode: uint8[B, H, W, 3] over the devices -> ids int32[B, P], or features float32[B, P, D].
        image_size: pixels a side of the frames that it is shown.
        shape: of what one frame gives, (P,) or (P, D).
        num_codes: ids are below it; None for features.
        provenance: what it is, as JSON.
    """

    encode: Callable[[jax.Array], jax.Array]
    image_size: int
    shape: tuple[int, ...]
    num_codes: int | None
    provenance: Mapping[str, Any]


def load(
    path: str,
    mesh: jax.sharding.Mesh,
    image_size: int | None = None,
    pool: int | None = None,
    dtype: str = "float32",
) -> Encoder:
    """The encoder at `path`, its weights laid out on the mesh.

    Args:
        path: folder of a `train_tokenizer` run, or what `towers.load_tower` reads.
        image_size: pixels a side; None: those it was trained on.
        pool: of features, average squares of so many patches a side.
        dtype: of a tower's computation.

    Raises:
        UserError: nothing there that encodes, or it cannot see images of that size.
    """
    place = pathlib.Path(path).expanduser()
    if not place.exists():
        raise errors.UserError(f"no encoder at {path}: give the folder of a train_tokenizer run, or a tower")
    if any((place / name).exists() for name in ("checkpoints", "state")):
        if pool is not None:
            raise errors.UserError(f"config.pool averages features, and {path} gives ids: leave it out")
        return _tokenizer(path, mesh, image_size)
    return _tower(path, mesh, image_size, 1 if pool is None else pool, dtype)


def _tokenizer(path: str, mesh: jax.sharding.Mesh, image_size: int | None) -> Encoder:
    tokenizer = trained.load_tokenizer(path, mesh)
    size = image_size or tokenizer.image_size
    shape = _shape(image_tokens.encode_frames, tokenizer, size)
    config = storage.digest(checkpoints.load_json(path, "config"))
    step = int(checkpoints.resolve(path).name)
    provenance = {"kind": "tokenizer", "path": str(pathlib.Path(path)), "step": step, "config": config}
    encode = functools.partial(image_tokens.encode_frames, tokenizer)
    return Encoder(encode, size, shape, tokenizer.num_codes, provenance)


def _tower(path: str, mesh: jax.sharding.Mesh, image_size: int | None, pool: int, dtype: str) -> Encoder:
    spec, params = towers.load_tower(path, dtype)
    size = image_size or spec["image_size"] // spec["patch_size"] * spec["patch_size"]
    see = functools.partial(features, spec, pool)
    shape = _shape(see, params, size)
    provenance = {"kind": "tower", "path": str(pathlib.Path(path)), "spec": json.loads(json.dumps(spec))}
    provenance |= {"weights": checksum(params), "pool": pool}
    placed = jax.device_put(params, sharding.tree_shardings(mesh, params))
    return Encoder(functools.partial(jax.jit(see), placed), size, shape, None, provenance)


def features(spec: Mapping[str, Any], pool: int, params: Any, frames: jax.Array) -> jax.Array:
    """Patch features of frames uint8[B, H, W, 3], row by row: float32[B, P, D].

    Args:
        pool: average squares of so many patches a side.

    Raises:
        UserError: the tower cannot see frames of that size, or the grid of patches is no multiple of `pool`.
    """
    x = vision.VisionTower(**spec).apply({"params": params}, frames.astype(jnp.float32) / 255)
    if pool < 1 or x.shape[1] % pool or x.shape[2] % pool:
        raise errors.UserError(f"config.pool={pool} does not divide a grid of {x.shape[1]}x{x.shape[2]} patches")
    return einops.reduce(x, "b (h p) (w q) d -> b (h w) d", "mean", p=pool, q=pool)


def checksum(params: Any) -> str:
    """8 hex digits of the numbers in a tree of arrays."""
    value = 0
    for leaf in jax.tree.leaves(params):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return f"{value:08x}"


def _shape(encode: Callable[[Any, jax.Array], jax.Array], weights: Any, image_size: int) -> tuple[int, ...]:
    """Of what one frame gives; nothing is computed."""
    frames = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    return jax.eval_shape(encode, weights, frames).shape[1:]
