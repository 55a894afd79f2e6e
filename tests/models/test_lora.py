"""Thin matrices beside kernels: nothing at the start, one kernel in the end, and only where they were asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors, sharding
from lapa_jax.models import llama, lora, vlm
from lapa_jax.models.token_stream import Tokens

CONFIG = dict(
    size="debug", vocabs=dict(text=20, latent=8), heads=("latent",), image="tokens", remat="none", theta=1e4,
    dtype="float32",
)  # fmt: skip
LORA = dict(rank=4, alpha=8.0, layers="attention/w[qv]|feed_forward")
TOKENS = Tokens.of(jnp.arange(1, 13).reshape(2, 6), 0)


def model(**thin):
    return vlm.from_config(CONFIG | dict(image="stem", lora=thin or None), 20)


def features(network, params):
    return network.apply({"params": params}, TOKENS, method="features")


@pytest.fixture(scope="module")
def params():
    return model(**LORA).init(jax.random.key(0), TOKENS)["params"]


def moved(params):
    """With thin matrices that are not zero."""

    def change(path, leaf):
        name = path[-1].key
        return leaf + 0.1 * jax.random.normal(jax.random.key(len(name)), leaf.shape) if "lora" in name else leaf

    return jax.tree.map_with_path(change, params)


def test_they_are_where_they_were_asked_for(params):
    layers = params["body"]["layers"]
    with_one = {f"{part}/{name}" for part in ("attention", "feed_forward") for name in layers[part]
                if "lora_a" in layers[part][name]}  # fmt: skip
    assert with_one == {"attention/wq", "attention/wv", "feed_forward/w1", "feed_forward/w2", "feed_forward/w3"}
    assert layers["feed_forward"]["w2"]["lora_a"].shape == (2, 128, 4)
    assert layers["feed_forward"]["w2"]["lora_b"].shape == (2, 4, 64)
    assert lora.chosen(LORA | dict(layers="")) == lora.LAYERS and lora.chosen(LORA | dict(rank=0)) == ()


def test_at_the_start_the_network_is_as_without(params):
    plain = lora.merged(params, LORA["alpha"])
    assert jax.tree.structure(plain) == jax.tree.structure(
        jax.eval_shape(model().init, jax.random.key(0), TOKENS)["params"]
    )
    np.testing.assert_array_equal(features(model(**LORA), params), features(model(), plain))


def test_merged_the_network_is_the_same(params):
    params = moved(params)
    found = features(model(**LORA), params)
    np.testing.assert_allclose(found, features(model(), lora.merged(params, LORA["alpha"])), atol=1e-4)
    assert np.abs(found - features(model(), lora.merged(params, 0.0))).max() > 0.01


def test_gradients_reach_both(params):
    weights = jax.random.normal(jax.random.key(1), (2, 6, 64))
    grads = jax.grad(lambda p: jnp.sum(weights * features(model(**LORA), p)))(moved(params))
    thin = grads["body"]["layers"]["attention"]["wq"]
    assert np.abs(thin["lora_a"]).max() > 1e-3 and np.abs(thin["lora_b"]).max() > 1e-3


def test_bfloat16_computes_in_it(params):
    network = vlm.from_config(CONFIG | dict(image="stem", lora=LORA, dtype="bfloat16"), 20)
    found = features(network, moved(params))
    assert found.dtype == jnp.bfloat16
    expected = features(model(**LORA), moved(params))
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=0.05 * np.abs(expected).max())


def test_they_are_split_over_a_mesh(params):
    mesh = sharding.make_mesh(1, 8, 1)
    specs = sharding.tree_shardings(mesh, params)["body"]["layers"]["attention"]["wq"]
    assert specs["lora_a"].spec[1] == "fsdp" and specs["lora_b"].spec[2] == "fsdp"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(layers="attention/wx"), "matches none of attention/wq"),
        (dict(rank=-1), "rank=-1"),
        (dict(alpha=0.0), "alpha=0"),
    ],
)
def test_what_makes_no_sense_is_named(change, message):
    with pytest.raises(errors.UserError, match=message):
        llama.sizes("debug", lora=LORA | change)
