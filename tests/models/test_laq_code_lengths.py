"""Many codes a transition: the CNNs that make them, the grids they want, how the official decoder mixes them."""

import functools

import jax
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.models import laq_readers, laq_transformer

TOY = dict(width=8, depth_spatial=1, depth_temporal=1, num_heads=1, head_dim=4, patch_size=2, code_dim=3)


def random_params(module, *args):
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("length, grid", [(16, 16), (16, 13), (64, 16), (64, 15), (256, 32), (256, 31)])
def test_long_codes_come_from_halvings(length, grid):
    """Against the convolutions of the official code written out: 3x3, stride 2, padding 1, ReLU between."""
    module = laq_readers.CodeEncoder(code_dim=2, code_length=length, grid=grid)
    x = np.random.default_rng(1).normal(size=(1, grid * grid, 4)).astype(np.float32)
    params = random_params(module, x)
    project = params["project_in"]
    expected = (x @ project["kernel"] + project["bias"]).reshape(1, grid, grid, 2)
    for name in ("conv_in", "conv_out")[: laq_readers.HALVINGS[length]]:
        expected = np.maximum(expected, 0) if name == "conv_out" else expected
        padded = np.pad(expected, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
        expected = np.einsum("bhwcij,ijcd->bhwd", windows, params[name]["kernel"]) + params[name]["bias"]
    assert set(params) == {"project_in", "conv_in"} | ({"conv_out"} if length == 16 else set())
    found = module.apply({"params": params}, x)
    np.testing.assert_allclose(found, expected.reshape(1, length, 2), atol=1e-4)


@pytest.mark.parametrize("length, grid", [(16, 8), (16, 12), (16, 17), (64, 8), (64, 14), (64, 32), (256, 16)])
def test_a_grid_that_makes_another_number_of_codes_is_named(length, grid):
    module = laq_transformer.PatchTransformerBackbone(**TOY, image_size=2 * grid, code_length=length)
    image = jax.ShapeDtypeStruct((1, 2 * grid, 2 * grid, 3), np.float32)
    with pytest.raises(errors.UserError, match=f"code_length={length} wants .* patch_size=2 make {grid}x{grid}"):
        jax.eval_shape(module.init, jax.random.key(0), image, image)


def test_sixteen_codes_are_mixed_as_four_are():
    """Token n, dimension d of what the decoder reads is flat element d * 16 + n (official NSVQ.decode)."""
    module = functools.partial(laq_transformer.PatchTransformerBackbone, **TOY, image_size=26, code_length=16)
    params = random_params(module(legacy=True), *2 * [np.zeros((1, 26, 26, 3), np.float32)])
    random = np.random.default_rng(1)
    start, words = (random.normal(size=shape).astype(np.float32) for shape in ((2, 169, 8), (2, 16, 3)))

    def decode(legacy, words):
        apply = functools.partial(module(legacy=legacy).apply, method="decode")
        return jax.jit(apply)({"params": params}, start, words)

    mixed = words.reshape(2, 3, 16).transpose(0, 2, 1)
    np.testing.assert_allclose(decode(True, words), decode(False, mixed), atol=1e-4)
    assert np.abs(decode(True, words) - decode(False, words)).max() > 1e-3
