"""ImageBind's image trunk: against features that torch recorded (gold_vision/make_imagebind.py); strangers."""

import functools
import math
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.convert import imagebind, torch_pickle, torch_zip
from lapa_jax.models import vision

GOLD = pathlib.Path(__file__).parents[1] / "models" / "gold_vision" / "imagebind"
FILE = GOLD / "imagebind.pth"
BLOCK, FIRST = "modality_trunks.vision.blocks.1.", "modality_trunks.vision.blocks.0.mlp.fc1.weight"
HUGE = dict(width=1280, depth=32, mlp_dim=5120, patch_size=14, image_size=224) | imagebind.FIXED

load = functools.cache(imagebind.load)


@pytest.fixture
def changed(tmp_path):
    """(change(state) -> state) -> a file with other tensors."""

    def make(change):
        path = tmp_path / "imagebind.pth"
        torch_zip.write(path, change(torch_zip.read(FILE)))
        return path

    return make


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@pytest.mark.parametrize("side", [24, 36, 12])
def test_features_are_those_of_torch(side):
    spec, params = load(FILE)
    random = np.random.RandomState(side * 1000 + side)
    image = (random.randint(0, 256, (2, side, side, 3)) / 255).astype(np.float32)
    features = jax.jit(vision.VisionTower(**spec).apply)({"params": params}, image)
    with np.load(GOLD / "features.npz") as gold:
        expected = gold[f"{side}x{side}"]
    assert features.shape == (2, side // 4, side // 4, 32)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


def test_sizes_come_from_shapes_and_the_tree_is_the_towers():
    spec, params = load(FILE)
    sizes = dict(width=32, depth=2, mlp_dim=128, patch_size=4, image_size=24)
    assert {name: spec[name] for name in sizes} == sizes
    assert shapes(params) == shapes(imagebind.abstract_params(spec))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert imagebind.load(FILE, "bfloat16")[0] == spec | {"dtype": "bfloat16"}


def test_the_released_size_has_the_parameters_of_the_source():
    w = 1280
    stem, tokens, norm = 3 * 14 * 14 * w, w + (1 + 16 * 16) * w, 2 * w
    block = 2 * norm + (3 * w * w + 3 * w) + (w * w + w) + (4 * w * w + 4 * w) + (4 * w * w + w)
    params = imagebind.abstract_params(HUGE)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == stem + tokens + norm + 32 * block
    stored = sum(map(math.prod, imagebind.expected(HUGE).values()))
    assert stored == 2 * stem + tokens + norm + 32 * block  # the convolution sees two frames


DEPTHS = dict(vision=32, text=24, audio=12, depth=12, thermal=12, imu=6)
PREPROCESSORS = dict(
    vision=["cls_token", "rgbt_stem.proj.1.weight", "pos_embedding_helper.pos_embed"],
    text=["pos_embed", "mask", "token_embedding.weight"],
    audio=["cls_token", "rgbt_stem.proj.weight", "rgbt_stem.norm_layer.bias", "pos_embedding_helper.pos_embed"],
    depth=["cls_token", "depth_stem.proj.weight", "depth_stem.norm_layer.bias"],
    thermal=["cls_token", "rgbt_stem.proj.weight", "rgbt_stem.norm_layer.bias"],
    imu=["pos_embed", "cls_token", "imu_stem.proj.weight", "imu_stem.norm_layer.bias"],
)
LAYERS = ["norm_1", "attn.out_proj", "norm_2", "mlp.fc1", "mlp.fc2"]


def released_names():
    """Of the tensors of `imagebind_huge`, from its source; norms by one leaf where all are left out."""
    yield from (f"modality_preprocessors.{kind}.{name}" for kind, names in PREPROCESSORS.items() for name in names)
    for kind, depth in DEPTHS.items():
        block = ["attn.in_proj_weight", "attn.in_proj_bias"]
        block += ["attn.bias_k", "attn.bias_v"] if kind not in ("vision", "text") else []
        block += [f"{layer}.{leaf}" for layer in LAYERS for leaf in ("weight", "bias")]
        yield from (f"modality_trunks.{kind}.blocks.{i}.{name}" for i in range(depth) for name in block)
    yield from (f"modality_trunks.vision.pre_transformer_layer.0.{leaf}" for leaf in ("weight", "bias"))
    yield from (f"modality_heads.{kind}.{leaf}" for kind in DEPTHS for leaf in ("0.weight", "0.bias", "2.weight"))
    yield from (f"modality_postprocessors.{kind}.1.log_logit_scale" for kind in DEPTHS if kind != "vision")


def test_of_the_released_names_those_of_the_trunk_are_kept():
    names = list(released_names())
    assert {name for name in names if not imagebind.UNUSED.match(name)} == set(imagebind.expected(HUGE))
    storage = torch_pickle.Storage("FloatStorage", "1234", 10**7)
    tensor = torch_pickle.Tensor(storage, 0, (1280, 3, 2, 14, 14), (1176, 392, 196, 14, 1))
    assert len(torch_pickle.dumps(dict.fromkeys(names, tensor))) < torch_pickle.MAX_BYTES / 2


def test_other_modalities_are_not_touched(changed):
    """What has been damaged there does no harm; what has been damaged here is noticed."""
    state = torch_zip.read(FILE)
    others = [name for name in state if imagebind.UNUSED.match(name)]
    assert len(others) == 15 and not np.isfinite(state["modality_preprocessors.text.mask"]).all()
    path, data = changed(lambda state: state), FILE.read_bytes()
    for name, fine in (("modality_trunks.text.blocks.0.attn.in_proj_weight", True), (f"{BLOCK}norm_1.bias", False)):
        at = data.index(state[name].tobytes())
        path.write_bytes(data[:at] + b"\0\0\x80\x7f" + data[at + 4 :])
        if fine:
            jax.tree.map(np.testing.assert_array_equal, imagebind.load(path)[1], load(FILE)[1])
        else:
            with pytest.raises(errors.UserError, match="differs from its checksum"):
                imagebind.load(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_of_any_width_become_float32(changed, dtype):
    _, params = imagebind.load(changed(lambda state: {name: value.astype(dtype) for name, value in state.items()}))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01, atol=0.01), params, load(FILE)[1])


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_(name, change):
    return lambda state: state | {name: change(state[name])}


STRANGERS = {
    "missing": (without(f"{BLOCK}mlp.fc2.bias"), rf"{BLOCK}mlp.fc2.bias is absent there and \(32,\)"),
    "no class token": (without(imagebind.CLASS), r"not ImageBind: \S+cls_token is missing \(there is"),
    "no first block": (without(FIRST), f"{FIRST} is missing"),
    "unknown": (
        lambda state: state | {f"{BLOCK}gamma": np.ones(3, np.float32)},
        rf"{BLOCK}gamma is \(3,\) there and absent in a trunk of 2 layers of width 32",
    ),
    "unknown modality": (
        lambda state: state | {"modality_heads.smell.0.bias": np.ones(3, np.float32)},
        "modality_heads.smell.0.bias",
    ),
    "shape": (with_(f"{BLOCK}attn.in_proj_bias", lambda x: x[:-1]), r"in_proj_bias is \(95,\) there and \(96,\)"),
    "one frame": (with_(imagebind.STEM, lambda x: x[:, :, :1]), r"\(32, 3, 1, 4, 4\) there and \(32, 3, 2, 4, 4\)"),
    "a grid that is none": (with_(imagebind.PLACES, lambda x: x[:, :-1]), r"\(1, 36, 32\) there and \(1, 26, 32\)"),
    "no place": (with_(imagebind.PLACES, lambda x: x[:, :1]), r"\(1, 1, 32\) there and \(1, 2, 32\)"),
    "integers": (with_(f"{BLOCK}norm_2.weight", lambda x: x.astype(np.int32)), "norm_2.weight is int32"),
    "not finite": (
        with_(f"{BLOCK}mlp.fc1.weight", lambda x: np.where(x == x.max(), np.nan, x)),
        f"{BLOCK}mlp.fc1.weight holds infinities or NaN",
    ),
    "another model": (lambda state: {"vq.codebooks": np.ones((2, 2), np.float32)}, "there is 'vq'"),
    "text only": (
        lambda state: {name: value for name, value in state.items() if ".text." in name},
        "there is nothing of its image trunk",
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_strangers_are_named(changed, case):
    change, message = STRANGERS[case]
    path = changed(change)
    with pytest.raises(errors.UserError, match=message) as caught:
        imagebind.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_dtype_that_there_is_not_is_named():
    with pytest.raises(errors.UserError, match="dtype='half'.*bfloat16"):
        imagebind.load(FILE, "half")
