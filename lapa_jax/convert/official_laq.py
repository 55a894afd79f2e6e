"""Checkpoints of the official LAQ as models of ours, and back; who stores them hands them in and out."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lapa_jax import errors, training
from lapa_jax.convert import laq_names, states, torch_zip
from lapa_jax.models import laq, laq_readers

QUANTIZER = "nsvq_official"
EXPORTED = dict(
    backbone=("transformer",), target=("pixels",), phase=(None,), legacy=(True,), reader=("cnn",),
    quantizer=(QUANTIZER, "nsvq"),  # these label and decode alike; how they train is not in a checkpoint
)  # fmt: skip
"""What a model of ours must be for the official code to have it."""

GRIDS = {1: 8, 2: 8, 4: 8, 16: 16, 64: 16, 256: 32}
"""code_length -> patches a side that the CNN of the official code is made for."""
IMAGE_SIZE = 256
"""Of all published configs."""


def read(
    path: str, image_size: int | None = None, part: str | None = None, ignore: str | None = None
) -> tuple[dict[str, Any], Any, np.ndarray]:
    """A file of the official LAQ: keyword arguments of its `LatentActionQuantizer`, body parameters, codebook.

    Args:
        image_size: pixels; a state dict does not hold it, see `sizes_of`.
        part: what to take of a file that holds several state dicts.
        ignore: regular expression of keys to leave out, unseen.

    Raises:
        UserError: not such a file; names the key that is missing, unknown, of another shape or not finite.
    """
    state = laq_names.plain(torch_zip.read(path, part))
    state = {key: value for key, value in state.items() if not (ignore and re.search(ignore, key))}
    try:
        model = model_of(state, image_size)
        check(state, expected(model))
        return model, *laq_names.from_official(state)
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from None


def model_of(state: Mapping[str, np.ndarray], image_size: int | None = None) -> dict[str, Any]:
    """Keyword arguments of the `LatentActionQuantizer` that a state dict belongs to, from its shapes.

    Args:
        image_size: pixels. Where None, the size for which the official code has a CNN with these kernels; of
            two such sizes the published 256.

    Raises:
        UserError: a key that tells a size is missing, or no size or more than one fits.
    """
    width, pixels = _shape(state, "to_patch_emb_first_frame.2.weight", 2)
    num_codes, code_dim = _shape(state, laq_names.CODEBOOK, 2)
    patch_size = round((pixels / 3) ** 0.5)
    if 3 * patch_size**2 != pixels:
        raise errors.UserError(f"its patches have {pixels} values, which is no square of RGB pixels")
    code_length, image_size = _code_length(state, patch_size, image_size)
    sizes = dict(
        width=width,
        depth_spatial=_depth(state, "enc_spatial_transformer"),
        depth_temporal=_depth(state, "enc_temporal_transformer"),
        num_heads=_shape(state, "spatial_rel_pos_bias.net.2.weight", 2)[0],
        head_dim=_shape(state, "enc_spatial_transformer.layers.0.1.q_scale", 1)[0],
        image_size=image_size,
        patch_size=patch_size,
        legacy=True,
    )
    codes = dict(num_codes=num_codes, code_length=code_length, code_dim=code_dim)
    return dict(backbone="transformer", backbone_args=sizes, quantizer=QUANTIZER, **codes)


def _shape(state: Mapping[str, np.ndarray], key: str, ndim: int) -> tuple[int, ...]:
    held = f"there is {torch_zip.contents(state)}; see --part"
    return states.shape_of(state, key, ndim, laq_names.STRANGER, held)


def _depth(state: Mapping[str, Any], transformer: str) -> int:
    return len({key.split(".")[2] for key in state if key.startswith(f"{transformer}.layers.")})


def _code_length(state: Mapping[str, np.ndarray], patch_size: int, image_size: int | None) -> tuple[int, int]:
    """Codes a transition and image size; the CNN's kernels say how it gets from patches to codes."""
    keys = ("vq.cnn_encoder.0.weight", "vq.cnn_encoder.2.weight")
    kernels = [_shape(state, key, 4)[2:] for key in keys if key in state]
    lengths = [
        length for length, grid in GRIDS.items()
        if [form["kernel_size"] for form in laq_readers.convolutions(length, grid)] == kernels
    ]  # fmt: skip
    if image_size is None:
        sizes = {length: GRIDS[length] * patch_size for length in lengths}
        fitting = [length for length in lengths if len(lengths) == 1 or sizes[length] == IMAGE_SIZE]
        image_size = sizes[fitting[0]] if fitting else None
    else:
        fitting = [length for length in lengths if _fits(length, image_size / patch_size)]
    if len(fitting) != 1:
        shown = " or ".join(f"{GRIDS[n] * patch_size} ({n} codes)" for n in lengths) or "no image at all"
        raise errors.UserError(
            f"with patches of {patch_size} px and kernels {kernels} its CNN is for images of {shown}, and "
            f"image_size is {image_size}: give --image_size"
        )
    return fitting[0], image_size


def _fits(length: int, grid: float) -> bool:
    """Whether the CNN for `length` codes makes as many of a grid of that side; halving rounds up."""
    factor = 2 ** laq_readers.HALVINGS.get(length, 1)
    return grid == int(grid) and -(-grid // factor) == GRIDS[length] // factor


def expected(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Official keys, in their order, and shapes of the model with these keyword arguments; nothing is computed."""
    module = laq.LatentActionQuantizer(**model)
    init = laq.init_fn(module, model["backbone_args"]["image_size"])
    params = jax.eval_shape(init, jax.random.key(0))["params"]
    blank = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), params)
    state = laq_names.to_official(blank["body"], blank["quantize"]["codebook"])
    return {key: value.shape for key, value in state.items()}


def check(state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare a state dict with what the model wants, and look for values that are no numbers.

    Raises:
        UserError: they differ; names the first key with both sides.
    """
    model = "the LAQ of its other sizes (--ignore=REGEX leaves keys out)"
    states.check(state, shapes, {**state, **shapes}, laq_names.STRANGER, model, "an earlier file")


def train_state(model: Mapping[str, Any], body: Any, codebook: np.ndarray, mesh: Mesh) -> training.TrainState:
    """A state of step 0 without optimizer, laid out on the mesh: these parameters, all else as at the start."""
    init_fn = laq.init_fn(laq.LatentActionQuantizer(**model), model["backbone_args"]["image_size"])
    return states.of_params(init_fn, {"body": body, "quantize": {"codebook": codebook}}, mesh)


def export(model: laq.LatentActionQuantizer, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The official state dict of a model of ours; heads and towers that only train it stay behind.

    Raises:
        UserError: the official code has no such model (names what it differs in).
    """
    args = {"legacy": False, "reader": "cnn", **dict(model.backbone_args)}
    kind = dict(backbone=model.backbone, target=model.target, phase=model.phase, quantizer=model.quantizer)
    kind |= {name: args[name] for name in ("legacy", "reader")}
    for name, value in kind.items():
        if value not in EXPORTED[name]:
            wanted = " or ".join(map(str, EXPORTED[name]))
            raise errors.UserError(f"a LAQ of {name}={value} has no official form: that is of {name}={wanted}")
    state = laq_names.to_official(params["body"], params["quantize"]["codebook"])
    there = model_of(state, args["image_size"])
    if there["code_length"] != model.code_length:
        raise errors.UserError(
            f"model.code_length={model.code_length} at image_size={args['image_size']} and patch_size="
            f"{args['patch_size']} has no official form: its CNNs are for grids of {GRIDS}"
        )
    return state
