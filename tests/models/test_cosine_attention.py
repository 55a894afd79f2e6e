"""Attention of few places without matrix products is that of many with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax.models import cosine_attention


def tensors(places, dtype=jnp.float32, heads=3, size=8):
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(2, 5, length, heads, size)) for length in (places[0], places[1], places[1]))
    q, k = (one / np.linalg.norm(one, axis=-1, keepdims=True) for one in (q, k))
    bias = random.normal(size=(heads, *places))
    return [jnp.asarray(one, dtype) for one in (q, k, v)], jnp.asarray(bias, jnp.float32)


def by_definition(q, k, v, bias):
    logits = 8.0 * jnp.einsum("bslnh,bsmnh->bsnlm", q, k) + bias
    weights = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
    return jnp.einsum("bsnlm,bsmnh->bslnh", weights, v)


@pytest.mark.parametrize("places", [(2, 2), (1, 6), (4, 4), (5, 4), (9, 9)], ids=str)
def test_few_places_and_many_follow_one_definition(places):
    qkv, bias = tensors(places)

    def moment(attend):
        return lambda *args: jnp.sum(jnp.sin(attend(*args)))

    args = (*qkv, bias)
    np.testing.assert_allclose(cosine_attention.attend(*args), by_definition(*args), atol=1e-6)
    found = jax.grad(moment(cosine_attention.attend), argnums=(0, 1, 2, 3))(*args)
    expected = jax.grad(moment(by_definition), argnums=(0, 1, 2, 3))(*args)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("places", [(2, 2), (9, 9)], ids=str)
def test_no_bias_is_a_bias_of_zero_and_the_kind_of_v_stays(places):
    qkv, bias = tensors(places, jnp.bfloat16)
    without = cosine_attention.attend(*qkv)
    assert without.dtype == jnp.bfloat16
    np.testing.assert_array_equal(without, cosine_attention.attend(*qkv, jnp.zeros_like(bias)))
    exact = by_definition(*[one.astype(jnp.float32) for one in qkv], 0.0)
    np.testing.assert_allclose(without.astype(jnp.float32), exact, atol=0.03)
