"""A folder of Hugging Face, config.json and safetensors, to a VLM's trunk, text table and text head.

Nothing is downloaded, and no file that could execute code is read. Every tensor is accounted for, and each part is
on its device before the next one is read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lapa_jax import errors
from lapa_jax.convert import hugging_face, lapa_model, placing, text_config, text_families
from lapa_jax.convert.hugging_face import Stored
from lapa_jax.convert.text_config import TextModel
from lapa_jax.convert.text_leaves import Leaf
from lapa_jax.models import vlm

HEAD = "lm_head.weight"
"""Lies outside the text model's prefix in some larger models."""


def text_model(folder: str | Path, prefix: str = "") -> TextModel:
    """What the folder's config.json says.

    Args:
        prefix: of the names of the text model's tensors in a larger model, such as "language_model."; its config is
            then `text_config`.

    Raises:
        UserError: no such folder, or a model that the trunk is not (names the key).
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise errors.UserError(f"no folder {folder}: get one with `hf download {folder} --local-dir DIR`, give DIR")
    config = hugging_face.read_json(folder / "config.json")
    if prefix:
        config = config.get("text_config")
        if not isinstance(config, dict):
            raise errors.UserError(f"{folder / 'config.json'} has no text_config: leave out prefix={prefix!r}")
    return text_config.parse(config)


def model_of(text: TextModel, **options: Any) -> vlm.LatentActionVLM:
    """A VLM of text alone: one vocabulary with a table and a head.

    Args:
        options: of the trunk (remat, attention), and dtype, residual_dtype.
    """
    dtypes = {name: options.pop(name) for name in ("dtype", "residual_dtype") if name in options}
    return vlm.LatentActionVLM(
        vocabs={"text": text.vocab_size}, heads=("text",), trunk=text.trunk | options, **dtypes
    )


def load(folder: str | Path, mesh: Mesh, dtype: Any = jnp.float32, prefix: str = "") -> tuple[TextModel, Any]:
    """The model and its parameters `body/...`, `embed_text/embedding` and `head_text/kernel`, laid out on the mesh.

    Args:
        dtype: of the parameters. Scales of norms stay float32: Gemma's are close to 1, where bfloat16 is coarse.
        prefix: see `text_model`.

    Raises:
        UserError: a file is missing or damaged, the model is unknown, or the tensors are not those that config.json
            speaks of: one is missing, unexpected, of another shape, no float, or not finite.
    """
    text = text_model(folder, prefix)

    def cast(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return lapa_model.with_dtype(leaf, jnp.float32 if path[-1].key == "scale" else jnp.dtype(dtype))

    abstract = lapa_model.abstract_params(model_of(text), mesh)
    return text, read(folder, text, jax.tree.map_with_path(cast, abstract), prefix)


def read(folder: str | Path, text: TextModel, abstract: Any, prefix: str = "", ignore: str = "$^") -> Any:
    """The folder's parameters, laid out and cast as `abstract` says.

    Args:
        abstract: nested dict of jax.ShapeDtypeStruct, with shardings (without, on the default device).
        ignore: regular expression of our paths that may be in the folder and not in `abstract`.

    Raises:
        UserError: as `load`.
    """
    folder = Path(folder).expanduser()
    wanted = flax.traverse_util.flatten_dict(dict(abstract), sep="/")
    leaves = _leaves(hugging_face.open_tensors(folder), text, prefix, folder)
    if missing := wanted.keys() - leaves.keys():
        raise errors.UserError(f"{folder}: no tensor for {min(missing)}, which the model of config.json has")
    if extra := {path for path in leaves.keys() - wanted.keys() if not re.search(ignore, path)}:
        raise errors.UserError(f"{folder}: {leaves[min(extra)].keys[0]} has no place in the model of config.json")
    for path, leaf in wanted.items():
        _check(leaves[path], leaf.shape, folder)
    params = {path: _place(leaves[path], leaf) for path, leaf in wanted.items()}
    return flax.traverse_util.unflatten_dict(params, sep="/")


def names(folder: str | Path, text: TextModel, prefix: str = "") -> frozenset[str]:
    """Our paths of the parameters that a folder has.

    Raises:
        UserError: as `load`.
    """
    folder = Path(folder).expanduser()
    return frozenset(_leaves(hugging_face.open_tensors(folder), text, prefix, folder))


def _place(leaf: Leaf, wanted: jax.ShapeDtypeStruct) -> jax.Array:
    return placing.spread(wanted, lambda index: leaf.read(index, wanted.shape, wanted.dtype))


def _leaves(stored: Mapping[str, Stored], text: TextModel, prefix: str, folder: Path) -> dict[str, Leaf]:
    """Our path -> where it lies."""
    found: dict[str, dict[int, str]] = {}
    for key in stored:
        name = key.removeprefix(prefix)
        if (name == key and prefix and key != HEAD) or text_families.UNUSED.match(key):
            continue
        place = text_families.place(name, text.trunk.get("post_norm", False))
        if place is None:
            raise errors.UserError(f"{folder}: {key} {stored[key].shape} has no place in the model of config.json")
        path, layer = place
        if (layer or 0) in found.setdefault(path, {}):
            raise errors.UserError(f"{folder} has both {found[path][layer or 0]} and {key}: one too many")
        found[path][layer or 0] = key
    if text.tied and "embed_text/embedding" in found:  # a head that is stored all the same is the table
        found["head_text/kernel"] = found["embed_text/embedding"]
    return {path: _leaf(path, keys, stored, text, folder) for path, keys in found.items()}


def _leaf(path: str, keys: Mapping[int, str], stored: Mapping[str, Stored], text: TextModel, folder: Path) -> Leaf:
    ordered = [keys[layer] for layer in sorted(keys)]
    stacked = path.startswith("body/layers/")
    depth = text.trunk["depth"] if stacked else 1
    if sorted(keys) != list(range(depth)):
        raise errors.UserError(
            f"{folder}: {path} is there for layers {', '.join(map(str, sorted(keys)))}, and config.json has {depth}"
        )
    offset = text.norm_offset if path.endswith("/scale") else 0
    return Leaf(path, ordered, [stored[key] for key in ordered], stacked, text.trunk["head_dim"], offset)


def _check(leaf: Leaf, shape: tuple[int, ...], folder: Path) -> None:
    """Shapes and kinds, before anything is read."""
    shape = shape[1:] if leaf.stacked else shape
    shape = shape[::-1] if leaf.path.endswith("/kernel") else shape
    for key, tensor in zip(leaf.keys, leaf.stored, strict=True):
        hugging_face.check_tensor(key, tensor, [tuple(shape)], folder)
