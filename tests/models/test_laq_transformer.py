"""The patch transformer backbone: against recorded arrays of the official code, and by itself."""

import functools
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors, sharding
from lapa_jax.models import laq_names, laq_transformer, peg_attention

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "laq"
needs_gold = pytest.mark.skipif(
    not GOLD.is_dir(), reason=f"recorded arrays of the official code are not at {GOLD}"
)

GOLD_SIZES = dict(
    width=64, depth_spatial=2, depth_temporal=2, num_heads=4, head_dim=16, image_size=64, patch_size=8
)
TOY_SIZES = dict(
    width=16,
    depth_spatial=1,
    depth_temporal=1,
    num_heads=2,
    head_dim=8,
    image_size=16,
    patch_size=4,
    code_dim=4,
    code_length=4,
)
Backbone = laq_transformer.PatchTransformerBackbone


def recorded(length: int, name: str) -> dict[str, np.ndarray]:
    with np.load(GOLD / f"seq{length}" / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def frames(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    video = video.astype(np.float32) / 255  # [B, C, T, H, W]
    return tuple(video.transpose(2, 0, 3, 4, 1))


def hard_codes(z: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    return np.square(z[..., None, :] - codebook).sum(-1).argmin(-1)


def encode_in_parts(backbone, frame, next_frame):
    patches = jnp.stack([backbone.embed(frame), backbone.embed(next_frame)], axis=1)
    return patches, backbone.mix(patches), backbone.encode(frame, next_frame)[0]


@functools.cache
def toy(**changes):
    model = Backbone(**{**TOY_SIZES, **changes})
    shape = (2, model.image_size, model.image_size, 3)
    pair = tuple(jax.random.uniform(jax.random.key(i), shape) for i in range(2))
    return model, jax.jit(model.init)(jax.random.key(2), *pair), pair


@needs_gold
@pytest.mark.parametrize("length", [1, 2, 4])
def test_matches_the_official_code(length):
    gold = recorded(length, "inference")
    params, codebook = laq_names.from_official(recorded(length, "params"))
    model = Backbone(**GOLD_SIZES, code_dim=16, code_length=length, legacy=True)
    pair = frames(gold["video_u8"])
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-4)

    run = jax.jit(lambda p, a, b: model.apply({"params": p}, a, b, method=encode_in_parts))
    patches, tokens, z = run(params, *pair)
    close(patches[:, 0], gold["patch_tokens_first"].reshape(3, 64, 64))
    close(patches[:, 1], gold["patch_tokens_rest"].reshape(3, 64, 64))
    close(tokens[:, 0], gold["enc_first_tokens"].reshape(3, 64, 64))
    close(tokens[:, 1], gold["enc_last_tokens"].reshape(3, 64, 64))
    close(z, gold["vq_diff"].reshape(3, length, 16))
    codes = hard_codes(np.asarray(z), codebook)
    np.testing.assert_array_equal(codes, gold["indices"])

    decode = jax.jit(lambda p, a, c: model.apply({"params": p}, a, c, method="decode"))
    for ids, name in [(codes, "recon"), (np.full((3, length), 5), "recon_user_int")]:
        images = decode(params, patches[:, 0], codebook[ids])
        close(images, gold[name].transpose(0, 2, 3, 1))


@needs_gold
def test_gradients_match_the_official_code():
    gold, train = recorded(4, "inference"), recorded(4, "train")
    params, codebook = laq_names.from_official(recorded(4, "params"))
    expected, codebook_grad = laq_names.from_official(recorded(4, "grads") | missing_grads())
    model = Backbone(**GOLD_SIZES, code_dim=16, code_length=4, legacy=True)
    frame, next_frame = frames(gold["video_u8"])
    noise, codes = train["noise"].reshape(3, 4, 16), gold["indices"]

    def loss_fn(params, codebook):
        z, start = model.apply({"params": params}, frame, next_frame, method="encode")
        error = jnp.linalg.norm(z - codebook[codes], axis=-1, keepdims=True)
        noisy = z + error / np.linalg.norm(noise, axis=-1, keepdims=True) * noise
        start = jax.lax.stop_gradient(start)
        images = model.apply({"params": params}, start, noisy, method="decode")
        return jnp.mean((images - next_frame) ** 2)

    loss, grads = jax.jit(jax.value_and_grad(loss_fn, argnums=(0, 1)))(params, codebook)
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
    model = Backbone(**GOLD_SIZES, code_dim=16, code_length=length, legacy=True)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    ours = jax.eval_shape(model.init, jax.random.key(0), image, image)["params"]
    shapes = functools.partial(jax.tree.map, lambda x: x.shape)
    assert shapes(params) == shapes(ours)


def test_names_reject_strangers():
    with pytest.raises(errors.UserError, match="vq.mystery.weight"):
        laq_names.from_official({"vq.mystery.weight": np.zeros((2, 2))})
    with pytest.raises(errors.UserError, match="vq.codebooks"):
        laq_names.from_official({})
    with pytest.raises(errors.UserError, match="beta"):
        laq_names.from_official({"enc_spatial_transformer.norm_out.beta": np.ones(3)})


@pytest.mark.parametrize("legacy, expected", [(True, 343_796_080), (False, 343_796_080 - 24 * 1024)])
def test_published_size(legacy, expected):
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    model = Backbone(legacy=legacy)
    variables = jax.eval_shape(model.init, jax.random.key(0), image, image)
    codebook = 8 * 32
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) + codebook == expected


def test_every_parameter_has_a_sharding_rule():
    sizes = dict(data=1, fsdp=2, tensor=2)
    _, variables, _ = toy(legacy=True)
    for name, leaf in flax.traverse_util.flatten_dict(variables["params"], sep="/").items():
        sharding.spec_for(f"body/{name}", leaf.shape, sizes)


def test_depthwise_conv_is_the_grouped_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3, 6))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 6))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel[..., None, :],
        window_strides=(1, 1, 1),
        padding=((2, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=6,
    )
    ours = peg_attention.causal_depthwise_conv(x, kernel)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_temporal_peg_reads_time_unless_legacy():
    """Only the tap of the previous frame is on: the second frame must get the first one's tokens."""
    x = jax.random.normal(jax.random.key(0), (1, 4, 2, 3))  # [B, H*W, T, D]
    kernel = jnp.zeros((3, 3, 3, 3)).at[1, 1, 1].set(1.0)
    variables = {"params": {"kernel": kernel, "bias": jnp.zeros(3)}}
    right = peg_attention.PEG((2, 2, 2), temporal=True).apply(variables, x)
    np.testing.assert_array_equal(right[:, :, 1], x[:, :, 0])
    np.testing.assert_array_equal(right[:, :, 0], 0)
    scrambled = peg_attention.PEG((2, 2, 2), temporal=True, legacy=True).apply(variables, x)
    np.testing.assert_array_equal(scrambled.reshape(8, 3)[4:], x.reshape(8, 3)[:4])


@pytest.mark.parametrize("legacy", [False, True])
def test_layouts_differ_only_where_they_should(legacy):
    """The official layout moves z (temporal PEG) and the images (mixed codewords)."""
    model, variables, pair = toy(legacy=True)
    other = Backbone(**TOY_SIZES, legacy=legacy)
    z, start = model.apply(variables, *pair, method="encode")
    other_z, other_start = other.apply(variables, *pair, method="encode")
    images = model.apply(variables, start, z, method="decode")
    other_images = other.apply(variables, start, z, method="decode")
    np.testing.assert_array_equal(start, other_start)
    assert np.allclose(z, other_z, atol=1e-6) == legacy
    assert np.allclose(images, other_images, atol=1e-6) == legacy


@pytest.mark.parametrize("length", [1, 2, 4])
def test_shapes(length):
    model, variables, pair = toy(code_length=length)
    z, start = model.apply(variables, *pair, method="encode")
    assert z.shape == (2, length, 4) and z.dtype == jnp.float32
    assert start.shape == (2, 16, 16)
    images = model.apply(variables, start, z, method="decode")
    assert images.shape == pair[0].shape and images.dtype == jnp.float32


def test_z_depends_on_the_order_of_frames_and_images_on_z():
    model, variables, pair = toy()
    z, start = model.apply(variables, *pair, method="encode")
    swapped, _ = model.apply(variables, *pair[::-1], method="encode")
    assert np.abs(z - swapped).max() > 1e-3
    images = [model.apply(variables, start, y, method="decode") for y in (z, swapped)]
    assert np.abs(images[0] - images[1]).max() > 1e-4


def test_one_sample_does_not_see_another():
    model, variables, (frame, next_frame) = toy(legacy=True)
    z, _ = model.apply(variables, frame, next_frame, method="encode")
    alone, _ = model.apply(variables, frame[:1], next_frame[:1], method="encode")
    np.testing.assert_allclose(z[:1], alone, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"remat": True}, {"dtype": jnp.bfloat16}])
def test_gradients_are_finite_and_reach_every_parameter(changes):
    _, variables, pair = toy()
    model = Backbone(**TOY_SIZES, **changes)

    def loss_fn(variables):
        return jnp.mean((model.apply(variables, *pair) - pair[1]) ** 2)

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(variables)
    reference, _ = toy()[0], None
    plain = jnp.mean((reference.apply(variables, *pair) - pair[1]) ** 2)
    np.testing.assert_allclose(loss, plain, rtol=5e-2 if "dtype" in changes else 1e-5)
    flat = flax.traverse_util.flatten_dict(grads["params"], sep="/")
    assert all(np.isfinite(g).all() and g.dtype == jnp.float32 for g in flat.values())
    still = {name for name, g in flat.items() if not np.any(g)}
    assert still <= {"code_encoder/conv_out/bias"}  # cancels in the difference of two frames


def test_wrong_sizes_are_named():
    model, variables, _ = toy()
    with pytest.raises(errors.UserError, match="8x8x3"):
        model.apply(variables, *[jnp.zeros((1, 8, 8, 3))] * 2)
    for change, name in [
        (dict(code_length=3), "code_length=3"),
        (dict(patch_size=5), "patch_size=5"),
        (dict(patch_size=8), "patch_size=8"),
    ]:
        with pytest.raises(errors.UserError, match=name):
            Backbone(**{**TOY_SIZES, **change}).init(jax.random.key(0), *toy()[2])
