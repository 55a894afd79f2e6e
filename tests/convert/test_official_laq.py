"""Checkpoints of the official LAQ: the listed tree, there and back bit by bit, sizes from shapes, strangers."""

import ast
import functools
import math
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.convert import laq_names, official_laq, torch_zip
from lapa_jax.models import laq

PUBLISHED = dict(width=1024, depth_spatial=8, depth_temporal=8, num_heads=16, head_dim=64, patch_size=32)
TOY = dict(width=16, depth_spatial=2, depth_temporal=1, num_heads=2, head_dim=8, patch_size=2)
IMAGES = {1: 16, 2: 16, 4: 16, 16: 32, 64: 32, 256: 64}
"""code_length -> pixels of a toy that has as many."""


def model_of(code_length=4, **sizes):
    args = TOY | {"image_size": IMAGES[code_length], "legacy": True} | sizes
    codes = dict(num_codes=5, code_length=code_length, code_dim=3)
    return dict(backbone="transformer", backbone_args=args, quantizer="nsvq_official", **codes)


@functools.cache
def official_state(code_length=4, **sizes):
    """A state dict such as the official code would save, with random numbers."""
    random = np.random.default_rng(code_length)
    shapes = official_laq.expected(model_of(code_length, **sizes))
    return {
        key: np.zeros(shape, np.float32) if key.endswith(".beta") else random.normal(size=shape).astype(np.float32)
        for key, shape in shapes.items()
    }


def same(state, other):
    parts = [[(k, v.dtype, v.shape, v.tobytes()) for k, v in each.items()] for each in (state, other)]
    return parts[0] == parts[1]


def test_the_published_tree(shared):
    """All 493 entries in their order, and 343,796,080 parameters besides the zeros."""
    lines = (shared / "docs" / "laq_state_dict.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    model = dict(model_of(**PUBLISHED, image_size=256), num_codes=8, code_dim=32)
    shapes = official_laq.expected(model)
    assert [(key, ast.literal_eval(shape)) for key, shape, *_ in rows] == list(shapes.items())
    assert len(shapes) == 493
    assert sum(math.prod(s) for key, s in shapes.items() if not key.endswith(".beta")) == 343_796_080


@pytest.mark.parametrize("length", IMAGES)
def test_there_and_back(length):
    state = official_state(length)
    body, codebook = laq_names.from_official({f"module.{key}": value for key, value in state.items()})
    assert same(laq_names.to_official(body, codebook), state)
    assert ("vq.cnn_encoder.2.weight" in state) == (length <= 16)
    abstract = jax.eval_shape(
        laq.init_fn(laq.LatentActionQuantizer(**model_of(length)), IMAGES[length]), jax.random.key(0)
    )["params"]
    shapes = functools.partial(jax.tree.map, lambda leaf: leaf.shape)
    assert shapes({"body": body, "quantize": {"codebook": codebook}}) == shapes(abstract)


def test_every_number_has_one_place():
    """Distinct numbers in, the same distinct numbers out: none is lost, none doubled."""
    state, start = {}, 0
    for key, value in official_state().items():
        count = 0 if key.endswith(".beta") else value.size
        state[key] = np.arange(start, start + count).reshape(value.shape) if count else np.zeros_like(value)
        start += count
    body, codebook = laq_names.from_official(state)
    numbers = np.concatenate([leaf.reshape(-1) for leaf in [*jax.tree.leaves(body), codebook]])
    np.testing.assert_array_equal(np.sort(numbers), np.arange(start))


@pytest.mark.parametrize("length", IMAGES)
def test_sizes_are_told_from_shapes(length):
    assert official_laq.model_of(official_state(length), IMAGES[length]) == model_of(length)


def kernels(patch, *second):
    """What `model_of` looks at, of a checkpoint with these kernels of the second convolution."""
    state = dict(official_state(4))
    state["to_patch_emb_first_frame.2.weight"] = np.zeros((16, 3 * patch**2), np.float32)
    state["vq.cnn_encoder.2.weight"] = np.zeros((3, 3, *second), np.float32)
    if not second:
        del state["vq.cnn_encoder.2.weight"]
    return state


@pytest.mark.parametrize(
    "patch, second, code_length, image_size",
    [
        (32, (4, 4), 1, 256), (32, (3, 4), 2, 256), (32, (3, 3), 4, 256), (16, (3, 3), 16, 256), (16, (), 64, 256),
        (8, (), 256, 256), (8, (4, 4), 1, 64), (14, (3, 4), 2, 112),
    ],
)  # fmt: skip
def test_the_image_size_the_cnn_is_made_for(patch, second, code_length, image_size):
    found = official_laq.model_of(kernels(patch, *second))
    assert (found["code_length"], found["backbone_args"]["image_size"]) == (code_length, image_size)


@pytest.mark.parametrize(
    "patch, second, image_size, message",
    [
        (8, (3, 3), None, r"64 \(4 codes\) or 128 \(16 codes\), and image_size is None: give --image_size"),
        (32, (3, 3), 224, None),  # 7x7 patches: halved and rounded up, 4x4
        (32, (3, 3), 192, r"256 \(4 codes\) or 512 \(16 codes\), and image_size is 192"),
        (32, (3, 3), 255, "image_size is 255"),
        (32, (5, 5), 256, "no image at all"),
    ],
)
def test_image_sizes_that_do_not_fit(patch, second, image_size, message):
    if message is None:
        assert official_laq.model_of(kernels(patch, *second), image_size)["code_length"] == 4
        return
    with pytest.raises(errors.UserError, match=message):
        official_laq.model_of(kernels(patch, *second), image_size)


def changed(**values):
    """The toy state dict with entries replaced, or left out where None."""
    state = official_state() | {key.replace("__", "."): value for key, value in values.items()}
    return {key: value for key, value in state.items() if value is not None}


DECODER = "dec_spatial_transformer.layers.1."
NAN = np.full(16, np.nan, np.float32)
STRANGERS = {
    "another shape": (
        {"enc_spatial_transformer.layers.1.1.to_q.weight": np.zeros((16, 15), np.float32)},
        r"layers\.1\.1\.to_q\.weight is \(16, 15\) there and \(16, 16\)",
    ),
    "a shallower decoder": (
        {key: None for key in official_state() if DECODER in key},
        r"dec_spatial_transformer\.layers\.1\.\S+ is absent there and \(\d",
    ),
    "a deeper decoder": (
        {key.replace("layers.1", "layers.2"): value for key, value in official_state().items() if DECODER in key},
        r"dec_spatial_transformer\.layers\.2\.\S+ is \(\S.*\) there and absent",
    ),
    "gaps between layers": (
        {"enc_temporal_transformer.layers.7.1.q_scale": np.ones(8, np.float32)},
        r"layers\.7\.1\.q_scale is \(8,\) there and absent",
    ),
    "missing": ({"vq.project_in.bias": None}, r"vq\.project_in\.bias is absent there and \(3,\)"),
    "without a codebook": ({"vq.codebooks": None}, r"vq\.codebooks is missing"),
    "unknown": ({"vq.mystery": np.zeros(3, np.float32)}, r"vq\.mystery is \(3,\) there and absent .*--ignore"),
    "not zero": ({"enc_spatial_transformer.norm_out.beta": np.ones(16, np.float32)}, r"norm_out\.beta is not zero"),
    "not finite": ({"enc_spatial_transformer.norm_out.gamma": NAN}, r"norm_out\.gamma holds infinities or NaN"),
    "integers": ({"enc_spatial_transformer.norm_out.gamma": np.ones(16, np.int64)}, r"norm_out\.gamma is int64"),
    "gray": ({"to_patch_emb_first_frame.2.weight": np.zeros((16, 4), np.float32)}, "4 values"),
    "a scalar codebook": ({"vq.codebooks": np.zeros((), np.float32)}, r"vq\.codebooks has shape \(\)"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_strangers_are_named(case, tmp_path):
    change, message = STRANGERS[case]
    torch_zip.write(tmp_path / "laq.pt", changed(**change))
    with pytest.raises(errors.UserError, match=message) as caught:
        official_laq.read(str(tmp_path / "laq.pt"), image_size=16)
    assert str(caught.value).startswith(str(tmp_path / "laq.pt")) and "\n" not in str(caught.value)


def test_of_a_file_of_several_the_part_is_asked_for(tmp_path):
    path = str(tmp_path / "laq.ema.pt")
    parts = ("online_model", "ema_model")
    state = {f"{part}.{key}": value for part in parts for key, value in official_state().items()}
    torch_zip.write(path, {"initted": np.array(True), **state})
    with pytest.raises(errors.UserError, match=r"'ema_model' \(\d+ entries\).*--part"):
        official_laq.read(path, image_size=16)
    _, *weights = official_laq.read(path, image_size=16, part="ema_model")
    assert same(laq_names.to_official(*weights), official_state())


def test_entries_are_ignored_when_told_so(tmp_path):
    torch_zip.write(tmp_path / "laq.pt", changed(vq__mystery=np.zeros(3, np.float32)))
    _, *weights = official_laq.read(str(tmp_path / "laq.pt"), image_size=16, ignore="mystery$")
    assert same(laq_names.to_official(*weights), official_state())


def test_half_precision_is_read_exactly(tmp_path):
    half = {key: value.astype(ml_dtypes.bfloat16) for key, value in official_state().items()}
    torch_zip.write(tmp_path / "laq.pt", half)
    _, *weights = official_laq.read(str(tmp_path / "laq.pt"), image_size=16)
    assert same(laq_names.to_official(*weights), half)


def test_names_that_become_one_are_refused():
    with pytest.raises(errors.UserError, match="module."):
        laq_names.plain({"module.a": 1, "a": 2})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(quantizer="fsq"), "quantizer=fsq"),
        (dict(backbone="conv"), "backbone=conv"),
        (dict(backbone_args=model_of()["backbone_args"] | {"legacy": False}), "legacy=False"),
        (dict(backbone_args=model_of()["backbone_args"] | {"reader": "queries"}), "reader=queries .* reader=cnn"),
        (dict(target="features"), "target=features"),
        (dict(phase="task"), "phase=task"),
    ],
)
def test_models_without_an_official_form_are_named(change, message):
    with pytest.raises(errors.UserError, match=message):
        official_laq.export(laq.LatentActionQuantizer(**(model_of() | change)), {})


def test_a_cnn_that_the_official_code_does_not_have():
    module = laq.LatentActionQuantizer(**model_of(image_size=32))  # 16x16 patches to 4 codes
    params = jax.eval_shape(laq.init_fn(module, 32), jax.random.key(0))["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    with pytest.raises(errors.UserError, match="image_size"):
        official_laq.export(module, params)


def test_parameters_of_another_tree_are_named():
    body, codebook = laq_names.from_official(official_state())
    with pytest.raises(errors.UserError, match="no parameter to_pixels/bias"):
        laq_names.to_official(body | {"to_pixels": {"kernel": body["to_pixels"]["kernel"]}}, codebook)
    with pytest.raises(errors.UserError, match="parameter stem/kernel has no place"):
        laq_names.to_official(body | {"stem": {"kernel": np.zeros((2, 2))}}, codebook)


GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "laq"


@pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")
@pytest.mark.parametrize("case", ["seq1/vae.0.pt", "seq2/vae.0.pt", "seq4/vae.0.pt", "trajectory/vae.11.pt"])
def test_files_of_the_official_code_come_back(case, tmp_path):
    model, *weights = official_laq.read(str(GOLD / case), image_size=64)
    state = laq_names.to_official(*weights)
    assert same(state, torch_zip.read(GOLD / case))
    sizes = dict(width=64, depth_spatial=2, depth_temporal=2, num_heads=4, head_dim=16, image_size=64, patch_size=8)
    assert model["backbone_args"] == sizes | {"legacy": True}
    assert (model["num_codes"], model["code_dim"]) == (8, 16)
