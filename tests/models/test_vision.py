"""Vision towers: against features that transformers recorded (see gold_vision/make.py), and by themselves."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors, sharding
from lapa_jax.convert import hugging_face, vision_families
from lapa_jax.models import resampling, vision

GOLD = pathlib.Path(__file__).parent / "gold_vision"
MODELS = sorted(path.parent.name for path in GOLD.glob("*/config.json"))
COUNTS = json.loads((GOLD / "counts.json").read_text())
SIZES = [(24, 24), (36, 16), pytest.param((16, 12), marks=pytest.mark.slow)]

TOY = dict(width=16, depth=1, num_heads=2, mlp_dim=8, patch_size=4, image_size=8)

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""These programs run once: compiling them fast matters more than running them fast."""

load = functools.cache(hugging_face.load_tower)


def recorded_images(height, width):
    """float32[2, H, W, 3] as in make.py."""
    random = np.random.RandomState(height * 1000 + width)
    return (random.randint(0, 256, (2, height, width, 3)) / 255).astype(np.float32)


def apply(spec, params, image):
    tower = vision.VisionTower(**spec)
    return np.asarray(jit(lambda params, image: tower.apply({"params": params}, image))(params, image))


def abstract_params(spec):
    tower = vision.VisionTower(**spec)
    image = jax.ShapeDtypeStruct((1, 2 * tower.patch_size, 3 * tower.patch_size, 3), jnp.float32)
    return jax.eval_shape(tower.init, jax.random.key(0), image)["params"]


def test_all_families_are_recorded():
    kinds = {json.loads((GOLD / name / "config.json").read_text())["model_type"] for name in MODELS}
    assert {vision_families.PAIRS.get(kind, kind) for kind in kinds} == set(vision_families.DEFAULTS)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_transformers(name, size):
    with np.load(GOLD / name / "features.npz") as gold:
        expected = gold[f"{size[0]}x{size[1]}"]
    features = apply(*load(GOLD / name), recorded_images(*size))
    assert features.shape == (2, size[0] // 4, size[1] // 4, 24) and features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["dinov2_registers", "dinov3"])
def test_bfloat16_computes_the_same_roughly(name):
    spec, params = load(GOLD / name)
    image = recorded_images(36, 16)
    half, full = (apply(spec | {"dtype": dtype}, params, image) for dtype in ("bfloat16", "float32"))
    assert half.dtype == np.float32
    difference = np.abs(half - full).mean() / np.abs(full).mean()
    assert 1e-4 < difference < 0.03  # the first: it did compute in bfloat16


def test_one_image_does_not_see_another():
    spec, params = load(GOLD / "dinov2_registers")
    image = recorded_images(16, 12)
    changed = np.stack([image[0], 1 - image[1]])
    before, after = apply(spec, params, image), apply(spec, params, changed)
    np.testing.assert_allclose(before[0], after[0], atol=1e-6)
    assert np.abs(before[1] - after[1]).max() > 0.1


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes_have_their_number_of_parameters(name):
    params = abstract_params(vision_families.spec_from_config(COUNTS[name]["config"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name]["parameters"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["dinov2-giant", "dinov3-vit7b16", "siglip2-so400m-patch14-384"])
def test_large_towers_are_split_over_8_devices(name):
    params = abstract_params(vision_families.spec_from_config(COUNTS[name]["config"]))
    shardings = sharding.tree_shardings(sharding.make_mesh(1, 4, 2), params)
    sizes = jax.tree.map(lambda leaf, where: np.prod(where.shard_shape(leaf.shape)), params, shardings)
    assert sum(jax.tree.leaves(sizes)) < 1.03 * COUNTS[name]["parameters"] / 8


def test_sharded_features_are_the_same():
    spec, params = load(GOLD / "dinov2_giant")
    image = np.tile(recorded_images(24, 24), (4, 1, 1, 1))
    mesh = sharding.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.tree_shardings(mesh, params))
        batch = sharding.global_batch(mesh, {"image": image})["image"]
        features = apply(spec, placed, batch)
    np.testing.assert_allclose(features, apply(spec, params, image), atol=1e-5)


def test_a_spec_lives_in_json():
    spec, _ = load(GOLD / "clip")
    tower = vision.VisionTower(**spec)
    assert json.loads(json.dumps(spec)) == spec
    assert tower == vision.VisionTower(**json.loads(json.dumps(spec))) and isinstance(hash(tower), int)


def test_trained_size_is_not_resampled():
    places = np.random.default_rng(0).normal(size=(5, 5, 3)).astype(np.float32)
    assert resampling.resample(places, (5, 5), "bilinear_antialias") is places


@pytest.mark.parametrize("rule", resampling.RULES)
@pytest.mark.parametrize("new", [2, 5, 6, 13])
def test_resampling_keeps_constants_and_mirrors(rule, new):
    matrix = resampling.weights(6, new, rule)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)


def test_positions_matter_and_rotary_ones_are_relative_to_the_image():
    one, two = (vision.axial_angles(grid, 8, 100.0) for grid in ((1, 1), (4, 2)))
    np.testing.assert_allclose(one, 0)  # the centre
    np.testing.assert_allclose(two[0], -two[-1])  # opposite corners
    np.testing.assert_allclose(two[0, :4], [-0.75 * 2 * np.pi, -0.075 * 2 * np.pi, -np.pi, -0.1 * np.pi])


@pytest.mark.parametrize(
    "image, named",
    [
        (np.zeros((1, 10, 8, 3), np.float32), "10x8x3.*multiple of 4"),
        (np.zeros((1, 8, 8, 1), np.float32), "8x8x1"),
        (np.zeros((1, 8, 8, 3), np.uint8), "uint8"),
    ],
)
def test_wrong_images_are_named(image, named):
    with pytest.raises(errors.UserError, match=named):
        vision.VisionTower(**TOY).init(jax.random.key(0), image)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(positions="linear"), "positions='linear'.*bicubic"),
        (dict(activation="relu"), "activation='relu'.*gelu"),
        (dict(dtype="bf16"), "dtype='bf16'.*bfloat16"),
        (dict(no_bias=["to_q"]), "no_bias='to_q'.*wq"),
        (dict(width=15), "width=15"),
        (dict(width=12, positions="rope"), "width=12"),
    ],
)
def test_wrong_specs_are_named(change, named):
    with pytest.raises(errors.UserError, match=named):
        abstract_params(TOY | change)
