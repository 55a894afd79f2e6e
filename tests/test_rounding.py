"""Stochastic rounding: to a neighbour, and to the number itself on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import rounding


def noise(shape, seed=0):
    return jax.random.bits(jax.random.key(seed), shape)


def test_a_number_becomes_one_of_its_two_neighbours_and_itself_on_average():
    x = np.float32([1.0 + 2**-9, -3.1, 1e-3, 7e-30, 3e-38])
    found = np.asarray(rounding.to_bfloat16(jnp.broadcast_to(x, (20_000, 5)), noise((20_000, 5))), np.float64)
    gap = 2.0 ** (np.floor(np.log2(np.abs(x.astype(np.float64)))) - 7)
    for column in found.T:
        assert len(np.unique(column)) == 2
    assert np.all(np.abs(found - x) < gap) and np.all(np.abs(found.mean(0) - x) < 0.02 * gap)


def test_what_bfloat16_holds_stays_and_what_is_no_number_too():
    x = np.asarray(np.random.default_rng(0).normal(size=1000), jnp.bfloat16)
    np.testing.assert_array_equal(rounding.to_bfloat16(jnp.asarray(x, jnp.float32), noise(1000)), x)
    odd = np.asarray(rounding.to_bfloat16(jnp.float32([np.inf, -np.inf, np.nan, 0.0]), noise(4)), np.float32)
    np.testing.assert_array_equal(odd, [np.inf, -np.inf, np.nan, 0.0])


def test_small_updates_arrive_in_bfloat16_and_exactly_in_float32():
    """1/2000 of a weight is below half of what bfloat16 tells apart: rounded to the nearest nothing would move."""
    params = {"low": jnp.ones(500, jnp.bfloat16), "full": jnp.ones(3)}
    updates = {"low": jnp.full(500, 5e-4), "full": jnp.full(3, 5e-4)}
    assert (jnp.ones((), jnp.bfloat16) + jnp.bfloat16(5e-4)) == 1.0
    for step in range(200):
        params = rounding.add(params, updates, jax.random.key(step))
    assert params["low"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(params["low"], np.float32).mean(), 1.1, atol=2e-3)
    np.testing.assert_allclose(params["full"], 1.1, atol=1e-5)


@pytest.fixture
def stack():
    return jnp.ones((4, 8, 16), jnp.bfloat16), jnp.full((4, 8, 16), 0.25 + 2**-12)


def test_a_stack_of_layers_is_worked_through_layer_by_layer(stack, monkeypatch):
    whole = rounding.add(stack[0], stack[1], jax.random.key(0))
    monkeypatch.setattr(rounding, "LARGE", 100)
    parts = rounding.add(stack[0], stack[1], jax.random.key(0))
    for found in (whole, parts):
        assert set(np.unique(np.asarray(found, np.float32))) == {1.25, 1.2578125}
    assert len({np.asarray(layer).tobytes() for layer in parts}) == 4  # each has randomness of its own
    key, tree = jax.random.key(0), {"a": stack[0], "b": stack[1][..., 0]}
    parts = rounding.by_layer(lambda key, tree, x: {"a": tree["a"] + x, "b": 2 * tree["b"]}, key, tree, stack[0])
    np.testing.assert_array_equal(parts["a"], jnp.full((4, 8, 16), 2.0))
    np.testing.assert_array_equal(parts["b"], 2 * stack[1][..., 0])


def test_memory_on_the_way_is_that_of_a_layer(monkeypatch):
    params, updates = jnp.ones((32, 64, 128), jnp.bfloat16), jnp.ones((32, 64, 128))

    def temporary():
        run = jax.jit(lambda *args: rounding.add(*args, jax.random.key(0)), donate_argnums=0)
        return run.lower(params, updates).compile().memory_analysis().temp_size_in_bytes

    whole = temporary()
    monkeypatch.setattr(rounding, "LARGE", 100)
    assert temporary() < 4 * params.size < 8 * params.size < whole
