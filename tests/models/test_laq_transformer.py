"""The patch transformer backbone: against recorded arrays of the official code, and by itself."""

import functools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors, sharding
from lapa_jax.convert import laq_names
from lapa_jax.models import laq_transformer, peg_attention

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "laq"
needs_gold = pytest.mark.skipif(
    not GOLD.is_dir(), reason=f"recorded arrays of the official code are not at {GOLD}"
)

SIZES = dict(width=64, num_heads=4, head_dim=16, image_size=64, patch_size=8)
GOLD_SIZES = dict(**SIZES, depth_spatial=2, depth_temporal=2, code_dim=16)
TOY_SIZES = dict(**SIZES, depth_spatial=1, depth_temporal=1, code_dim=4, code_length=4)
Backbone = laq_transformer.PatchTransformerBackbone

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""These programs run once: compiling them fast matters more than running them fast."""


def recorded(length: int, name: str) -> dict[str, np.ndarray]:
    with np.load(GOLD / f"seq{length}" / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def frames(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    video = video.astype(np.float32) / 255  # [B, C, T, H, W]
    return tuple(video.transpose(2, 0, 3, 4, 1))


def abstract_params(model):
    image = jax.ShapeDtypeStruct((1, model.image_size, model.image_size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image, image)["params"]


@functools.cache
def toy(legacy: bool = False):
    """(model, params, frames float[2, 2, H, W, 3])."""
    model = Backbone(**TOY_SIZES, legacy=legacy)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(float(leaf.ndim == 1), 0.1, leaf.shape).astype(np.float32),
        abstract_params(Backbone(**TOY_SIZES, legacy=True)),
    )
    return model, params, random.random((2, 2, 64, 64, 3), dtype=np.float32)


@functools.cache
def toy_forward(legacy: bool = False):
    """jitted (params, pair, codewords or None) -> (z, images)."""

    def forward(params, pair, codewords):
        apply = functools.partial(toy(legacy)[0].apply, {"params": params})
        z, start = apply(*pair, method="encode")
        return z, apply(start, codewords, method="decode")

    return jit(forward)


@needs_gold
@pytest.mark.parametrize("length", [1, 2, 4])
def test_matches_the_official_code(length):
    gold = recorded(length, "inference")
    params, codebook = laq_names.from_official(recorded(length, "params"))
    model = Backbone(**GOLD_SIZES, code_length=length, legacy=True)

    @jit
    def run(params, frame, next_frame):
        apply = functools.partial(model.apply, {"params": params})
        patches = jnp.stack([apply(x, method="embed") for x in (frame, next_frame)], axis=1)
        z, start = apply(frame, next_frame, method="encode")
        codes = jnp.square(z[..., None, :] - codebook).sum(-1).argmin(-1)
        codewords = jnp.asarray(codebook)[jnp.concatenate([codes, jnp.full_like(codes, 5)])]
        images = apply(jnp.concatenate([start, start]), codewords, method="decode")
        return dict(
            patches=patches, tokens=apply(patches, method="mix"), z=z, codes=codes, images=images
        )

    ours = run(params, *frames(gold["video_u8"]))
    expected = dict(
        patches=np.concatenate([gold["patch_tokens_first"], gold["patch_tokens_rest"]], axis=1),
        tokens=np.concatenate([gold["enc_first_tokens"], gold["enc_last_tokens"]], axis=1),
        z=gold["vq_diff"],
        images=np.concatenate([gold["recon"], gold["recon_user_int"]]).transpose(0, 2, 3, 1),
    )
    for name, value in expected.items():
        value = value.reshape(ours[name].shape)
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(ours["codes"], gold["indices"])


@needs_gold
@pytest.mark.slow
def test_gradients_match_the_official_code():
    gold, train = recorded(4, "inference"), recorded(4, "train")
    params, codebook = laq_names.from_official(recorded(4, "params"))
    expected, codebook_grad = laq_names.from_official(recorded(4, "grads") | missing_grads())
    model = Backbone(**GOLD_SIZES, code_length=4, legacy=True)
    frame, next_frame = frames(gold["video_u8"])
    noise, codes = train["noise"].reshape(3, 4, 16), gold["indices"]

    def loss_fn(params, codebook):
        z, start = model.apply({"params": params}, frame, next_frame, method="encode")
        error = jnp.linalg.norm(z - codebook[codes], axis=-1, keepdims=True)
        noisy = z + error / np.linalg.norm(noise, axis=-1, keepdims=True) * noise
        start = jax.lax.stop_gradient(start)
        images = model.apply({"params": params}, start, noisy, method="decode")
        return jnp.mean((images - next_frame) ** 2)

    loss, grads = jit(jax.value_and_grad(loss_fn, argnums=(0, 1)))(params, codebook)
    np.testing.assert_allclose(loss, train["loss"], rtol=1e-5)
    np.testing.assert_allclose(grads[1], codebook_grad, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads[0], expected)


def missing_grads() -> dict[str, np.ndarray]:
    """Zeros for the norms that the official self-attention never uses (their gradient is None)."""
    state = recorded(4, "params")
    unused = [key for key in state if key.endswith(".1.context_norm.gamma")]
    return {key: np.zeros_like(state[key]) for key in unused}


@needs_gold
@pytest.mark.parametrize("length", [1, 2, 4])
def test_names_cover_the_whole_tree(length):
    params, _ = laq_names.from_official(
        {f"module.{key}": value for key, value in recorded(length, "params").items()}
    )
    ours = abstract_params(Backbone(**GOLD_SIZES, code_length=length, legacy=True))
    shapes = functools.partial(jax.tree.map, lambda x: x.shape)
    assert shapes(params) == shapes(ours)


def test_names_reject_strangers():
    with pytest.raises(errors.UserError, match="vq.mystery.weight"):
        laq_names.from_official({"vq.mystery.weight": np.zeros((2, 2))})
    with pytest.raises(errors.UserError, match="vq.codebooks"):
        laq_names.from_official({})
    with pytest.raises(errors.UserError, match="beta"):
        laq_names.from_official({"enc_spatial_transformer.norm_out.beta": np.ones(3)})


@pytest.mark.parametrize("legacy, unused", [(True, 0), (False, 24 * 1024)])
def test_published_size(legacy, unused):
    leaves = jax.tree.leaves(abstract_params(Backbone(legacy=legacy)))
    codebook = 8 * 32
    assert sum(leaf.size for leaf in leaves) + codebook == 343_796_080 - unused


def test_every_parameter_has_a_sharding_rule():
    params = flax.traverse_util.flatten_dict(toy()[1], sep="/")
    for name, leaf in params.items():
        sharding.spec_for(f"body/{name}", leaf.shape, dict(data=1, fsdp=2, tensor=2))


def test_depthwise_conv_is_the_grouped_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 2, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel[..., None, :],
        window_strides=(1, 1, 1),
        padding=((2, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=5,
    )
    ours = jit(peg_attention.causal_depthwise_conv)(x, kernel)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_temporal_peg_reads_time_unless_legacy():
    """With the tap of the previous frame alone, the second frame gets the tokens of the first."""
    x = np.random.default_rng(0).random((1, 4, 2, 3), dtype=np.float32)  # [B, H*W, T, D]
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[1, 1, 1] = 1.0
    variables = {"params": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}
    right = peg_attention.PEG((2, 2, 2), temporal=True).apply(variables, x)
    np.testing.assert_array_equal(right[:, :, 1], x[:, :, 0])
    np.testing.assert_array_equal(right[:, :, 0], 0)
    scrambled = peg_attention.PEG((2, 2, 2), temporal=True, legacy=True).apply(variables, x)
    np.testing.assert_array_equal(scrambled.reshape(8, 3)[4:], x.reshape(8, 3)[:4])


def test_official_layout_changes_z_and_images():
    _, params, pair = toy()
    codewords = np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)
    z, images = toy_forward(False)(params, pair, codewords)
    official_z, official_images = toy_forward(True)(params, pair, codewords)
    assert np.abs(z - official_z).max() > 1e-3
    assert np.abs(images - official_images).max() > 1e-3
    mixed = codewords.swapaxes(1, 2)  # code_dim = code_length = 4
    _, images = toy_forward(False)(params, pair, mixed)
    np.testing.assert_allclose(images, official_images, atol=1e-4)


def test_z_depends_on_the_order_of_frames_and_images_on_codewords():
    _, params, pair = toy()
    codewords = np.random.default_rng(1).normal(size=(2, 4, 4)).astype(np.float32)
    z, images = toy_forward()(params, pair, codewords)
    swapped_z, _ = toy_forward()(params, pair[::-1], codewords)
    _, other_images = toy_forward()(params, pair, -codewords)
    assert np.abs(z - swapped_z).max() > 1e-3
    assert np.abs(images - other_images).max() > 1e-3


@pytest.mark.parametrize("legacy", [False, True])
def test_one_sample_does_not_see_another(legacy):
    _, params, pair = toy()
    codewords = np.ones((2, 4, 4), np.float32)
    changed = pair.copy()
    changed[:, 1] = 1.0 - changed[:, 1]
    before, after = (toy_forward(legacy)(params, x, codewords) for x in (pair, changed))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        assert np.abs(one[1] - other[1]).max() > 1e-3


@pytest.mark.parametrize("length", [1, 2, 4])
def test_shapes(length):
    model = Backbone(**{**TOY_SIZES, "code_length": length}, dtype=jnp.bfloat16)
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = {"params": abstract_params(model)}
    encode = functools.partial(model.apply, method="encode")
    z, start = jax.eval_shape(encode, variables, image, image)
    assert (z.shape, z.dtype) == ((2, length, 4), jnp.float32)
    assert (start.shape, start.dtype) == ((2, 64, 64), jnp.bfloat16)
    images = jax.eval_shape(functools.partial(model.apply, method="decode"), variables, start, z)
    assert (images.shape, images.dtype) == (image.shape, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


@functools.cache
def toy_gradients(**changes):
    model, (_, params, pair) = Backbone(**TOY_SIZES, **changes), toy()

    def loss_fn(params):
        return jnp.mean((model.apply({"params": params}, *pair) - pair[1]) ** 2)

    loss, grads = jit(jax.value_and_grad(loss_fn))(params)
    return loss, flax.traverse_util.flatten_dict(grads, sep="/")


def test_gradients_are_finite_and_reach_every_parameter():
    _, grads = toy_gradients()
    assert all(np.isfinite(grad).all() for grad in grads.values())
    still = {name for name, grad in grads.items() if not np.any(grad)}
    unused = {name for name in grads if name.endswith("/attention/context_norm/scale")}
    # The last bias of the code encoder cancels in the difference of two frames.
    assert still - unused <= {"code_encoder/conv_out/bias"}


@pytest.mark.slow
def test_remat_and_bfloat16_keep_the_loss():
    loss, _ = toy_gradients()
    other, grads = toy_gradients(remat=True, dtype=jnp.bfloat16)
    np.testing.assert_allclose(loss, other, rtol=5e-2)
    assert all(np.isfinite(g).all() and g.dtype == np.float32 for g in grads.values())


@pytest.mark.parametrize(
    "change, name",
    [
        (dict(code_length=3), "code_length=3"),
        (dict(patch_size=5), "patch_size=5"),
        (dict(patch_size=32), "patch_size=32"),
    ],
)
def test_wrong_sizes_are_named(change, name):
    with pytest.raises(errors.UserError, match=name):
        abstract_params(Backbone(**{**TOY_SIZES, **change}))


def test_wrong_frames_are_named():
    model, params, _ = toy()
    with pytest.raises(errors.UserError, match="8x8x3"):
        model.apply({"params": params}, np.zeros((1, 8, 8, 3)), method="embed")
