"""The image tokenizer: shapes, what training does to it, and the arrays recorded from the official code."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lapa_jax import errors
from lapa_jax.convert import official_vqgan
from lapa_jax.models import image_tokens, vqgan

TINY = dict(vqgan.SIZES["tiny"], quantizer="vq", quantizers={})
MODEL, SIZE = vqgan.from_config(TINY), 16


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def applied(model, variables):
    """(encode, decode), compiled."""
    methods = (functools.partial(model.apply, method=name) for name in ("encode", "decode"))
    return tuple(functools.partial(jax.jit(method), variables) for method in methods)


@pytest.fixture(scope="module")
def variables():
    """Of the tiny model, at random."""
    return jax.jit(vqgan.init_fn(MODEL, SIZE))(jax.random.key(0))


@pytest.fixture(scope="module")
def tiny(variables):
    """(encode, decode)."""
    return applied(MODEL, variables)


def test_the_published_tree(shared):
    """277 parameters of the official names and shapes; 146,244,675 numbers."""
    model = dict(vqgan.SIZES["base"], quantizer="vq", quantizers={"vq": {"whiten": False}})
    rows = [line.split("\t")[:2] for line in (shared / "docs" / "vqgan_params.txt").read_text().splitlines()]
    rows = [row for row in rows if not row[0].startswith("#")]
    shapes = {path: str(shape) for path, shape in official_vqgan.expected(model).items()}
    assert shapes == {path: shape.strip() for path, shape in rows}
    assert len(shapes) == 277
    assert sum(map(math.prod, official_vqgan.expected(model).values())) == 146_244_675


GRIDS = [("base", 256, 16), ("base", 128, 8), ("small", 64, 8), ("tiny", 16, 4)]


@pytest.mark.parametrize("size, image, grid", GRIDS)
def test_grids_of_all_sizes(size, image, grid):
    model = vqgan.VQGAN(**vqgan.SIZES[size])
    frames = jax.ShapeDtypeStruct((2, image, image, 3), jnp.uint8)
    variables = jax.eval_shape(vqgan.init_fn(model, image), jax.random.key(0))
    codes = jax.eval_shape(functools.partial(model.apply, method="encode"), variables, frames)
    assert codes.ids.shape == (2, grid, grid) and codes.ids.dtype == jnp.int32
    assert codes.z.shape == codes.codewords.shape == (2, grid, grid, model.code_dim)
    decoded = jax.eval_shape(functools.partial(model.apply, method="decode"), variables, codes.ids)
    assert decoded.shape == frames.shape and decoded.dtype == jnp.float32


def test_ids_say_all_that_the_decoder_reads(tiny):
    encode, decode = tiny
    codes = encode(random_images(3, SIZE, SIZE))
    assert 0 <= codes.ids.min() and codes.ids.max() < MODEL.num_codes
    image = decode(codes.ids)
    np.testing.assert_allclose(image, decode(codes.codewords), atol=1e-6)
    assert image.shape == (3, SIZE, SIZE, 3) and -1 <= image.min() and image.max() <= 1


def test_video_is_frames(tiny):
    encode, decode = tiny
    video = random_images(2, 3, SIZE, SIZE)
    codes, flat = encode(video), encode(video.reshape(6, SIZE, SIZE, 3))
    np.testing.assert_array_equal(codes.ids.reshape(flat.ids.shape), flat.ids)
    assert decode(codes.ids).shape == video.shape and codes.codewords.shape == (2, 3, 4, 4, 4)


def test_bytes_are_scaled_to_plus_minus_one():
    np.testing.assert_allclose(vqgan.to_signed(jnp.array([0, 51, 255], jnp.uint8)), [-1, -0.6, 1], atol=1e-6)
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(vqgan.to_uint8(vqgan.to_signed(every)), every)
    np.testing.assert_array_equal(vqgan.to_uint8(jnp.array([-7.0, 7.0])), [0, 255])


def test_frames_as_tokens_and_back(tiny, variables):
    encode, decode = tiny
    tokenizer = image_tokens.Tokenizer(variables, MODEL, SIZE)
    frames = random_images(3, SIZE, SIZE)
    ids = image_tokens.encode_frames(tokenizer, frames)
    assert ids.shape == (3, 16) and ids.dtype == jnp.int32 and tokenizer.num_codes == 16
    grid = encode(frames).ids
    np.testing.assert_array_equal(ids.reshape(3, 4, 4), grid)
    image = image_tokens.decode_tokens(tokenizer, ids)
    assert image.dtype == jnp.uint8
    assert np.abs(np.asarray(image, int) - np.asarray(vqgan.to_uint8(decode(grid)), int)).max() <= 1
    # Another object of the same sizes is another argument, not another program.
    before = image_tokens.encode_frames._cache_size()
    image_tokens.encode_frames(image_tokens.Tokenizer(variables, vqgan.from_config(TINY), SIZE), frames)
    assert image_tokens.encode_frames._cache_size() == before


@pytest.mark.parametrize("quantizer", [pytest.param(name, marks=pytest.mark.slow) for name in ("vq", "vq_ema")])
def test_training_rebuilds_and_uses_codes(quantizer):
    """Images of two colours each: the error falls to a small part, and what differs gets codes that differ."""
    model = vqgan.from_config(TINY | {"quantizer": quantizer})
    colours = np.random.default_rng(0).integers(0, 2, (16, 1, 2, 3)) * 255
    images = np.broadcast_to(colours.repeat(SIZE // 2, axis=2), (16, SIZE, SIZE, 3)).astype(np.uint8)
    variables = jax.jit(vqgan.init_fn(model, SIZE))(jax.random.key(0))
    tx = optax.adam(5e-3)

    def loss_fn(params, state, key):
        out, new = model.apply(
            {"params": params, **state}, images, train=True, mutable=list(state), rngs={"noise": key}
        )
        error = jnp.mean(jnp.square(out.reconstruction - vqgan.to_signed(images)))
        return error + out.loss, (error, {**state, **new})

    @jax.jit
    def step(params, state, opt_state, key):
        (_, (error, state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, state, key)
        everything = {"params": params, **state}
        _, new = model.apply(everything, method="maintain", mutable=list(everything))
        state = {**everything, **new}
        params = state.pop("params")
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, error

    state = dict(variables)
    params = state.pop("params")
    opt_state, errors_ = tx.init(params), []
    for i in range(80):
        params, state, opt_state, error = step(params, state, opt_state, jax.random.key(i))
        errors_.append(float(error))
    assert errors_[-1] < 0.35 * errors_[0]
    ids = np.asarray(model.apply({"params": params, **state}, images, method="encode").ids)
    assert len(np.unique(ids)) >= 4
    kinds = {tuple(pair) for pair in colours.reshape(16, 6)}
    assert len({tuple(row.reshape(-1)) for row in ids}) >= len(kinds) - 2


def test_bfloat16_computes_alike(tiny, variables):
    images = random_images(2, SIZE, SIZE)
    codes, other = (encode(images) for encode in (tiny[0], applied(MODEL.clone(dtype="bfloat16"), variables)[0]))
    assert other.z.dtype == jnp.float32
    np.testing.assert_allclose(other.z, codes.z, atol=0.1 * float(jnp.abs(codes.z).max()))
    assert float(jnp.abs(other.z - codes.z).max()) > 0


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(quantizer="fsq"), "no model.quantizer 'fsq'; choose one of: vq, vq_ema"),
        (dict(quantizers={"vq": {"levels": 3}}), "model.quantizers.vq has no 'levels'; it has: .*commitment"),
        (dict(width=5), "model.width=5 .*multiples of model.norm_groups=2"),
        (dict(multipliers=()), "model.multipliers"),
        (dict(num_codes=1), "model.num_codes=1: it must be 2 or more"),
        (dict(num_blocks=0), "model.num_blocks=0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(change, says):
    with pytest.raises(errors.UserError, match=says):
        jax.eval_shape(vqgan.init_fn(vqgan.from_config(TINY | change), SIZE), jax.random.key(0))


@pytest.mark.parametrize("shape", [(18, 16, 3), (16, 18, 3), (16, 16, 4)])
def test_images_that_do_not_fit_are_named(shape, tiny):
    with pytest.raises(errors.UserError, match="data.image_size to a multiple of 4"):
        tiny[0](jnp.zeros((1, *shape)))


# Against the official code


def ready(model, params):
    """Model and variables of what `official_vqgan` returns."""
    model = vqgan.from_config(model)
    rest = jax.eval_shape(vqgan.init_fn(model, 64), jax.random.key(0))["codebook"]
    rest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rest)
    return model, {"params": jax.tree.map(jnp.asarray, params), "codebook": rest}


@pytest.fixture(scope="module")
def recorded(shared):
    """(folder, encode, decode) of the recorded parameters."""
    folder = shared / "gold" / "vqgan"
    return folder, *applied(*ready(*official_vqgan.read(folder / "vqgan")))


def near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_official_codes_at_64_px(recorded):
    folder, encode, decode = recorded
    with np.load(folder / "io64.npz") as gold:
        for images in (gold["image_u8"], gold["pixel_values"]):
            codes = encode(images)
            np.testing.assert_array_equal(codes.ids, gold["indices"])
            near(codes.z, gold["prequant"])
            near(codes.codewords, gold["quantized"])
        near(decode(gold["indices"]), gold["decoded"])
        near(decode(gold["rand_indices"]), gold["rand_decoded"])
        near(decode(gold["quantized"]), gold["decoded_from_quantized"])


def test_official_codes_of_video(recorded):
    folder, encode, decode = recorded
    with np.load(folder / "io64.npz") as gold:
        video = gold["image_u8"][None]
        assert gold["video_indices"].shape == (1, 2, 4, 4)
        codes = encode(video)
        np.testing.assert_array_equal(codes.ids, gold["video_indices"])
        near(codes.codewords, gold["video_quantized"])
        near(decode(codes.ids), gold["video_decoded"])


def test_official_codes_at_256_px(recorded):
    """Where the two nearest codes are further apart than rounding."""
    folder, encode, decode = recorded
    with np.load(folder / "io256.npz") as gold:
        codes = encode(gold["image_u8"])
        clear = gold["argmin_gap"] > 1e-2
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(np.asarray(codes.ids)[clear], gold["indices"][clear])
        near(np.asarray(codes.codewords)[clear], gold["quantized"][clear])
        near(decode(gold["indices"])[:, ::4, ::4], gold["decoded_stride4"])


def test_official_codes_of_other_sizes(shared):
    folder = shared / "gold" / "vqgan"
    sizes = json.loads((folder / "config.json").read_text())["tiny"]
    with np.load(folder / "tiny_variant.npz") as gold:
        leaves = {key[2:]: gold[key] for key in gold.files if key.startswith("p/")}
        model = official_vqgan.model_of(leaves)
        assert model["multipliers"] == tuple(sizes["channel_mult"])
        assert model["num_blocks"] == sizes["num_res_blocks"]
        assert (model["num_codes"], model["code_dim"]) == (sizes["num_embeddings"], sizes["quantized_embed_dim"])
        encode, decode = applied(*ready(model, official_vqgan.tree_of(leaves)))
        codes = encode(gold["pixel_values"])
        np.testing.assert_array_equal(codes.ids, gold["indices"])
        near(codes.codewords, gold["quantized"])
        near(decode(codes.ids), gold["decoded"])
