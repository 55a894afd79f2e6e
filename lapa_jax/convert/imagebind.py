"""The image trunk of ImageBind (Girdhar et al. 2023), as released in `imagebind_huge.pth`, to a `VisionTower`.

A pre-norm ViT-H/14 as of OpenCLIP: class token, learned positions, a norm before the first layer, exact GELU. The
patches are what its trunk gives for them after the last layer. The norm after that is part of the head, which keeps
the class token only; it is left out with the head and the other modalities.
"""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors
from lapa_jax.convert import states, torch_zip, vision_families
from lapa_jax.models import vision

STRANGER = "not ImageBind"

FIXED: dict[str, Any] = dict(
    num_heads=16, activation="gelu", positions="bicubic", class_token=True, norm_in=True, norm_out=False,
    no_bias=["patch_embed"], norm_eps=1e-6, **vision_families.OPENAI,
)  # fmt: skip
"""What the source says and no shape tells."""

UNUSED = re.compile(
    r"modality_(preprocessors|trunks|heads|postprocessors)\.(text|audio|depth|thermal|imu)\."
    r"|modality_heads\.vision\.(0\.weight|0\.bias|2\.weight)$"
)
"""Names of tensors that features of image patches do without."""

INPUT, TRUNK = "modality_preprocessors.vision.", "modality_trunks.vision."
CLASS, STEM = f"{INPUT}cls_token", f"{INPUT}rgbt_stem.proj.1.weight"
PLACES = f"{INPUT}pos_embedding_helper.pos_embed"
NORM_IN = f"{TRUNK}pre_transformer_layer.0"

BLOCK = {
    "norm_1": "attention_norm",
    "attn.out_proj": "attention/wo",
    "norm_2": "feed_forward_norm",
    "mlp.fc1": "feed_forward/up",
    "mlp.fc2": "feed_forward/down",
}
"""Module of a block -> ours."""

Leaves = Mapping[str, np.ndarray]


def load(path: str | os.PathLike, dtype: str = "float32") -> tuple[dict[str, Any], dict[str, Any]]:
    """The released checkpoint as (spec, params) of a `VisionTower`; other modalities are not read.

    Args:
        dtype: of the tower's computation; parameters are float32.

    Raises:
        UserError: not such a file, or another `dtype` than there are; names the leaf that is missing, unknown, of
            another shape, no float or not finite.
    """
    leaves = torch_zip.read(path, keep=lambda name: not UNUSED.match(name))
    try:
        spec = spec_of(leaves) | {"dtype": dtype}
        shapes = expected(spec)
        model = f"a trunk of {spec['depth']} layers of width {spec['width']}"
        states.check(leaves, shapes, {**shapes, **leaves}, STRANGER, model, "another file")
        return spec, params_of(leaves, spec["depth"])
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from None


def spec_of(leaves: Leaves) -> dict[str, Any]:
    """Keyword arguments of the `VisionTower` that these leaves belong to, from their shapes.

    Raises:
        UserError: a leaf that tells a size is missing.
    """
    held = f"there is {torch_zip.contents(leaves) or 'nothing of its image trunk'}"
    width = states.shape_of(leaves, CLASS, 3, STRANGER, held)[2]
    patch = states.shape_of(leaves, STEM, 5, STRANGER, held)[4]
    places = states.shape_of(leaves, PLACES, 3, STRANGER, held)[1] - 1
    side = max(1, math.isqrt(places))
    mlp_dim = states.shape_of(leaves, _block(0, "mlp.fc1.weight"), 2, STRANGER, held)[0]
    depth = len({name.split(".")[3] for name in leaves if name.startswith(f"{TRUNK}blocks.")})
    sizes = dict(width=width, depth=depth, mlp_dim=mlp_dim, patch_size=patch, image_size=side * patch)
    return sizes | FIXED


def expected(spec: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names of the image trunk, and their shapes in a model of these sizes.

    Raises:
        UserError: there is no such tower.
    """
    abstract_params(spec)
    w, m, patch, side = (spec[name] for name in ("width", "mlp_dim", "patch_size", "image_size"))
    block = {
        "norm_1.weight": (w,), "norm_1.bias": (w,),
        "attn.in_proj_weight": (3 * w, w), "attn.in_proj_bias": (3 * w,),
        "attn.out_proj.weight": (w, w), "attn.out_proj.bias": (w,),
        "norm_2.weight": (w,), "norm_2.bias": (w,),
        "mlp.fc1.weight": (m, w), "mlp.fc1.bias": (m,),
        "mlp.fc2.weight": (w, m), "mlp.fc2.bias": (w,),
    }  # fmt: skip
    shapes = {CLASS: (1, 1, w), STEM: (w, 3, 2, patch, patch), PLACES: (1, 1 + (side // patch) ** 2, w)}
    shapes |= {f"{NORM_IN}.{leaf}": (w,) for leaf in ("weight", "bias")}
    return shapes | {_block(i, name): shape for i in range(spec["depth"]) for name, shape in block.items()}


def abstract_params(spec: Mapping[str, Any]) -> Any:
    """Shapes of the parameters of a tower; nothing is computed."""
    tower = vision.VisionTower(**spec)
    image = jax.ShapeDtypeStruct((1, tower.patch_size, tower.patch_size, 3), jnp.float32)
    return jax.eval_shape(tower.init, jax.random.key(0), image)["params"]


def params_of(leaves: Leaves, depth: int) -> dict[str, Any]:
    """The parameters of a `VisionTower`, float32, of a trunk's leaves."""
    ours = {
        "embed_prefix/embedding": leaves[CLASS][0],
        "place_embedding": leaves[PLACES][0],
        "patch_embed/kernel": _patch_kernel(leaves[STEM]),
        "norm_in/scale": leaves[f"{NORM_IN}.weight"],
        "norm_in/bias": leaves[f"{NORM_IN}.bias"],
    }
    for theirs, path in BLOCK.items():
        weight = "scale" if path.endswith("norm") else "kernel"
        ours[f"layers/{path}/{weight}"] = _stacked(leaves, f"{theirs}.weight", depth)
        ours[f"layers/{path}/bias"] = _stacked(leaves, f"{theirs}.bias", depth)
    for i, name in enumerate(("wq", "wk", "wv")):  # one above the other in one tensor
        ours[f"layers/attention/{name}/kernel"] = _stacked(leaves, "attn.in_proj_weight", depth, i)
        ours[f"layers/attention/{name}/bias"] = _stacked(leaves, "attn.in_proj_bias", depth, i)
    ours = {path: np.ascontiguousarray(leaf, np.float32) for path, leaf in ours.items()}
    return flax.traverse_util.unflatten_dict(ours, sep="/")


def _patch_kernel(stem: np.ndarray) -> np.ndarray:
    """Convolution [D, 3, 2, row, column] of two frames -> [(row, column, 3), D]; the image is both of them."""
    return np.sum(stem, axis=2, dtype=np.float32).transpose(2, 3, 1, 0).reshape(-1, len(stem))


def _stacked(leaves: Leaves, name: str, depth: int, third: int | None = None) -> np.ndarray:
    """A leaf of all blocks, or a third of it, float32[depth, ...]; matrices the other way round."""
    rows = [leaves[_block(i, name)] for i in range(depth)]
    rows = [(row if third is None else np.split(row, 3)[third]).T for row in rows]
    return np.stack(rows, out=np.empty((depth, *rows[0].shape), np.float32), casting="same_kind")


def _block(index: int, name: str) -> str:
    return f"{TRUNK}blocks.{index}.{name}"
