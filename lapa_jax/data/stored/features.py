"""features.json of a TFDS dataset as a tree of `schema.Leaf`, without TFDS.

Two forms are in the wild: {"pythonClassName", <oneof>: {...}} of today's TFDS and the older
{"type", "content"}. Reading them ourselves also reads datasets whose features TFDS opens with TensorFlow only.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data.stored import schema

_TENSORS = {"Tensor": None, "Scalar": (), "BBoxFeature": (4,), "ClassLabel": ()}
_TENSOR_DTYPES = {"BBoxFeature": "float32", "ClassLabel": "int64"}
_ONEOFS = {
    "FeaturesDict": "featuresDict",
    "Dataset": "sequence",
    "Sequence": "sequence",
    "Tensor": "tensor",
    "Scalar": "tensor",
    "Image": "image",
    "Text": "text",
    "ClassLabel": "classLabel",
    "BBoxFeature": "boundingBox",
}
_MAX_DEPTH = 32


def read(text: str, where: str) -> dict[str, Any]:
    """The tree of features; the steps of an episode are the dict under "steps".

    Raises:
        UserError: not the JSON that TFDS writes, or without steps.
    """
    try:
        tree = _tree(json.loads(text), False, _MAX_DEPTH)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.UserError(f"{where}: features.json cannot be read ({error!r:.200})") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("steps"), dict):
        raise errors.UserError(
            f"{where}: no `steps` of named features, so this is no RLDS dataset; see docs/data.md for the form"
        )
    return tree


def _tree(value: Mapping[str, Any], in_steps: bool, depth: int) -> Any:
    if not depth:
        raise ValueError("nested too deeply")
    name, content = _content(value)
    if name == "FeaturesDict":
        children = content.get("features", content)
        return {key: _tree(child, in_steps, depth - 1) for key, child in children.items()}
    if name in ("Dataset", "Sequence"):
        inner = _content(content["feature"])[0] if not in_steps else ""
        if inner == "FeaturesDict":
            return _tree(content["feature"], True, depth - 1)
        return schema.Leaf("sequence")
    return _leaf(name, content)


def _leaf(name: str, content: Mapping[str, Any]) -> schema.Leaf:
    if name == "Image":
        return schema.Leaf("image", _shape(content), content.get("dtype", "uint8"))
    if name == "Text":
        return schema.Leaf("text", (), "object")
    if name not in _TENSORS:
        return schema.Leaf(name)
    shape = _shape(content) if _TENSORS[name] is None else _TENSORS[name]
    dtype = content.get("dtype") or _TENSOR_DTYPES.get(name, "")
    dtype = {"string": "object", "str": "object"}.get(dtype, dtype)
    if dtype != "object":
        np.dtype(dtype)  # a TypeError where it is none
    return schema.Leaf("tensor", shape, dtype, str(content.get("encoding") or "none").lower())


def _content(value: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """(class name, its content) of either form."""
    if "type" in value:
        content = value.get("content") or {}
        return _short(value["type"]), json.loads(content) if isinstance(content, str) else content
    name = _short(value["pythonClassName"])
    return name, value.get(_ONEOFS.get(name, ""), {})


def _short(class_name: str) -> str:
    return class_name.rsplit(".", 1)[-1]


def _shape(content: Mapping[str, Any]) -> tuple[int | None, ...]:
    shape = content.get("shape") or ()
    sizes = shape.get("dimensions", ()) if isinstance(shape, Mapping) else shape
    return tuple(None if size is None or int(size) < 0 else int(size) for size in sizes)
