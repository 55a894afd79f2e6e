"""A stack of layers is worked through layer by layer, in place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import rounding, sharding, stacks

LAYERS, WIDTH = 24, 64


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(stacks, "LARGE", 100)


def tree():
    random = np.random.default_rng(0)
    return {name: random.normal(size=(LAYERS, WIDTH, n)).astype(np.float32) for name, n in (("a", WIDTH), ("b", 1))}


def mixed(layer, arrays, x):
    """Each array from all the others."""
    del layer
    a, b = arrays["a"], arrays["b"]
    peak = jnp.max(jnp.abs(a), axis=-1, keepdims=True)
    return {"a": a * b + x, "b": b + peak + jnp.mean(x, axis=-1, keepdims=True)}


def test_layers_are_done_as_the_whole_would_be(large):
    x = np.random.default_rng(1).normal(size=(LAYERS, WIDTH, WIDTH)).astype(np.float32)
    expected = mixed(None, tree(), x)
    found = stacks.by_layer(mixed, tree(), x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_each_is_told_its_number(large):
    found = np.asarray(stacks.by_layer(lambda layer, x: x + layer, jnp.zeros((LAYERS, 8, 8))))
    np.testing.assert_array_equal(found[:, 3, 5], np.arange(LAYERS))


@pytest.mark.parametrize("shape", [(400, 400), (2, 5, 5)])
def test_matrices_and_small_stacks_are_done_whole(large, shape):
    seen = []
    stacks.by_layer(lambda layer, x: seen.append(x.shape) or x, jnp.zeros(shape))
    assert seen == [shape]


def test_no_rule_splits_the_axis_of_layers():
    assert max(len(spec) for _, spec in sharding.RULES) == 2


def test_memory_on_the_way_is_that_of_layers(monkeypatch):
    """In place: no copy of the stack, in spite of all that reads it while it is written."""

    def busy(layer, arrays, x):
        low, b = arrays["a"], arrays["b"]
        a = rounding.read(low) + x
        for _ in range(3):  # sums along an axis are held
            a = jnp.tanh(a - jnp.mean(a, axis=-1, keepdims=True))
        peak = jnp.max(a, axis=-1, keepdims=True)
        return {"a": rounding.write(a, low.dtype, jnp.uint32([1, 2]), layer), "b": peak + b}

    def temporary():
        arrays = {"a": rounding.to_bits(jnp.asarray(tree()["a"], jnp.bfloat16)), "b": tree()["b"]}
        run = jax.jit(lambda arrays, x: stacks.by_layer(busy, arrays, x), donate_argnums=0)
        return run.lower(arrays, tree()["a"]).compile().memory_analysis().temp_size_in_bytes

    whole, size = temporary(), LAYERS * WIDTH * WIDTH
    monkeypatch.setattr(stacks, "LARGE", 100)
    assert temporary() < size < 4 * size < whole  # less than half of the stack, which has two bytes a number
