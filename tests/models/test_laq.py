"""The latent action quantizer as a whole, on the small convolutional backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.models import laq, laq_conv

SIZE = 16


def make(**changes):
    args = dict(width=8, depth=1, patch_size=4)
    quantizers = {"fsq": {"levels": (2, 2, 2)}}
    return laq.LatentActionQuantizer(**dict(backbone="conv", backbone_args=args, quantizers=quantizers) | changes)


def frames(count=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, count, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=[1, 2])
def trained(request):
    """(model, variables after one look at the data, pair); decoder weights are away from zero."""
    model, pair = make(code_length=request.param), frames()
    variables = model.init({"params": jax.random.key(0), "noise": jax.random.key(0)}, *pair)
    variables["params"]["body"]["decoder_conv_pixels"]["kernel"] *= 100.0
    _, new = model.apply(variables, *pair, train=True, mutable=["batch_stats"])
    return model, {**variables, **new}, pair


def test_shapes_and_types(trained):
    model, variables, pair = trained
    out = model.apply(variables, *pair)
    assert (out.reconstruction.shape, out.reconstruction.dtype) == ((6, SIZE, SIZE, 3), jnp.float32)
    codes, z = out.latent.codes, out.latent.z
    assert (codes.shape, codes.dtype) == ((6, model.code_length), jnp.int32)
    assert z.shape == (6, model.code_length, 3)
    assert np.asarray(codes).min() >= 0 and np.asarray(codes).max() < model.num_codes


def test_encode_and_decode_are_the_halves_of_the_whole(trained):
    model, variables, pair = trained
    out = model.apply(variables, *pair)
    latent = model.apply(variables, *pair, method="encode")
    np.testing.assert_array_equal(latent.codes, out.latent.codes)
    np.testing.assert_allclose(latent.z, out.latent.z, atol=1e-6)
    for one in (latent.codes, latent.codewords):
        decoded = model.apply(variables, pair[0], one, method="decode")
        np.testing.assert_allclose(decoded, np.clip(out.reconstruction, 0, 1), atol=1e-5)


def test_decoding_obeys_the_codes_and_stays_an_image(trained):
    model, variables, pair = trained
    columns = [
        np.asarray(model.apply(variables, pair[0], np.full((6, model.code_length), c), method="decode"))
        for c in (0, 7)
    ]
    assert np.abs(columns[0] - columns[1]).max() > 1e-3
    assert min(c.min() for c in columns) >= 0.0 and max(c.max() for c in columns) <= 1.0


def test_bytes_and_unit_floats_are_the_same_frames(trained):
    model, variables, pair = trained
    floats = [frame.astype(np.float32) / 255 for frame in pair]
    np.testing.assert_allclose(
        model.apply(variables, *pair).latent.z, model.apply(variables, *floats).latent.z, atol=1e-6
    )


def test_codes_hang_on_both_frames_in_their_order(trained):
    model, variables, pair = trained
    z = model.apply(variables, *pair).latent.z
    assert np.abs(z - model.apply(variables, *pair[::-1]).latent.z).max() > 1e-3
    assert np.abs(z - model.apply(variables, pair[0], pair[0]).latent.z).max() > 1e-3


def test_gradients_are_finite_and_reach_every_parameter(trained):
    model, variables, pair = trained
    target = laq.to_unit(jnp.asarray(pair[1]))

    @jax.jit
    @jax.grad
    def grad_fn(params):
        out, _ = model.apply({**variables, "params": params}, *pair, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(out.reconstruction - target))

    for path, grad in jax.tree.leaves_with_path(grad_fn(variables["params"])):
        assert np.isfinite(grad).all(), path
        assert np.any(grad) or "keypoints']['bias" in jax.tree_util.keystr(path), path


def test_levels_must_make_the_number_of_codes():
    with pytest.raises(errors.UserError, match="num_codes=9"):
        make(num_codes=9).init(jax.random.key(0), *frames())


@pytest.mark.parametrize("key", ["backbone", "quantizer"])
def test_unknown_names_are_told_with_the_known_ones(key):
    with pytest.raises(errors.UserError, match=f"model.{key} 'mystery'; choose one of"):
        make(**{key: "mystery"}).init(jax.random.key(0), *frames())


def test_depth_to_space_undoes_space_to_depth():
    x = np.random.default_rng(0).random((2, 8, 12, 3), np.float32)
    folded = laq_conv.space_to_depth(x, 4)
    assert folded.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(laq_conv.depth_to_space(folded, 4), x)


def test_expected_position_is_where_the_peak_is():
    logits = np.zeros((1, 5, 9, 2), np.float32)
    logits[0, 0, 8, 0] = logits[0, 2, 4, 1] = 100.0
    found = laq_conv.expected_position(jnp.asarray(logits))
    np.testing.assert_allclose(found, [[[-1.0, 1.0], [0.0, 0.0]]], atol=1e-5)
    even = laq_conv.expected_position(jnp.zeros((1, 5, 9, 1)))
    np.testing.assert_allclose(even, np.zeros((1, 1, 2)), atol=1e-6)
