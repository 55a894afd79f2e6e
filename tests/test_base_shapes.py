"""The published sizes: parameters counted and sharded by shape alone, without holding any."""

import functools

import jax
import jax.numpy as jnp
import pytest

from lapa_jax import checkpoints, optimizers, sharding, training, vocab
from lapa_jax.models import laq, vlm, vqgan
from lapa_jax.models.token_stream import Tokens

LAQ_OFFICIAL = 343_796_080
"""With the codebook, and with 24 norms of 1024 that the official self-attention creates and never uses."""
TOKENIZER_OFFICIAL = 146_244_675
VLM_OFFICIAL = 6_807_687_168
"""LLaMA-7B with tables and heads for text, vision and latent actions."""


@pytest.fixture(scope="module")
def inits(load_config):
    """name -> (init_fn, optimizer config) of the base configs."""
    config = load_config("train_laq", "base")
    model = laq.LatentActionQuantizer(**config.model)
    stages = {"laq": (laq.init_fn(model, config.data.image_size), config.optimizer)}
    config = load_config("train_tokenizer", "base", **{"model.quantizer": "vq"})
    model = vqgan.from_config(config.model.to_dict())
    stages["tokenizer"] = vqgan.init_fn(model, config.data.image_size), config.optimizer
    config = load_config("pretrain_vlm", "base")
    model = vlm.from_config(config.model, text_vocab=32_000)
    ids = jnp.ones((1, 2), jnp.int32)
    init_fn = functools.partial(model.init, tokens=Tokens.of(ids, vocab.TEXT))
    return stages | {"vlm": (init_fn, config.optimizer)}


@functools.cache
def count(init_fn):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init_fn, jax.random.key(0))["params"]))


def test_laq_base_is_the_official_size_less_unused_norms(inits):
    assert count(inits["laq"][0]) == LAQ_OFFICIAL - 24 * 1024


def test_laq_legacy_is_the_official_size(load_config):
    config = load_config("train_laq", "official")
    model = laq.LatentActionQuantizer(**config.model)
    assert count(laq.init_fn(model, config.data.image_size)) == LAQ_OFFICIAL


def test_tokenizer_base_is_the_official_size(inits):
    assert count(inits["tokenizer"][0]) == TOKENIZER_OFFICIAL


def test_vlm_base_is_the_official_size(inits):
    assert count(inits["vlm"][0]) == VLM_OFFICIAL


@pytest.mark.parametrize("name, small", [("laq", 2**18), ("tokenizer", 2**20), ("vlm", 2**18)])
def test_weights_and_adam_state_get_a_sharding_on_8_devices(inits, name, small):
    """Leaves below `small` may be whole; the largest of the tokenizer is its codebook, of 8192 x 64."""
    init_fn, optimizer = inits[name]
    mesh = sharding.make_mesh(1, 8, 1)
    tx, _ = optimizers.make(10, **optimizer)
    state = training.abstract_state(training.make_init(init_fn, tx), mesh)
    leaves = jax.tree.leaves_with_path(state)
    local = sum(leaf.sharding.shard_shape(leaf.shape) != leaf.shape for _, leaf in leaves)
    assert local > 20
    total = sum(leaf.size for _, leaf in leaves)
    assert 2.99 * count(init_fn) < total < 3.01 * count(init_fn)
    per_device = sum(
        functools.reduce(lambda a, b: a * b, leaf.sharding.shard_shape(leaf.shape), 1) for _, leaf in leaves
    )
    assert per_device < (1.04 if name == "tokenizer" else 1.02) * total / 8  # nothing large is kept whole
    whole = {sharding.path_name(p): leaf.size for p, leaf in leaves if leaf.sharding.is_fully_replicated}
    assert max(whole.values()) < small, max(whole, key=whole.get)


def bytes_a_device(tree):
    return sum(
        functools.reduce(lambda a, b: a * b, leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(tree)
    )


@pytest.mark.parametrize("name", ["laq", "tokenizer", "vlm"])
def test_moments_in_8_bits_take_a_quarter_and_are_split_alike(inits, name):
    init_fn, optimizer = inits[name]
    tx, _ = optimizers.make(10, **{**optimizer, "moments": "float8"})
    state = training.abstract_state(training.make_init(init_fn, tx), sharding.make_mesh(1, 8, 1))
    assert 2.0 * count(init_fn) / 8 < bytes_a_device(state.opt_state) < 2.3 * count(init_fn) / 8


def test_a_frozen_7b_takes_two_bytes_a_number(inits):
    """And what is trained beside it its own: here the head of the latent actions."""
    init_fn, optimizer = inits["vlm"]
    tx, _ = optimizers.make(10, **{**optimizer, "trainable": "head_latent"})
    init = training.make_init(init_fn, tx, frozen_dtype="bfloat16")
    state = training.abstract_state(init, sharding.make_mesh(devices=jax.devices()[:1]))
    head = 4096 * 8
    assert bytes_a_device(state) == 2 * (VLM_OFFICIAL - head) + 12 * head + 8  # both counts of updates


def test_frozen_and_flattened_names_are_those_of_the_table(inits):
    params = jax.eval_shape(inits["vlm"][0], jax.random.key(0))["params"]
    names = {sharding.path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    assert names["body/layers/attention/wq/kernel"] == (32, 4096, 4096)
    assert names["embed_vision/embedding"] == (8448, 4096)
    assert names["head_latent/kernel"] == (4096, 8)
    assert checkpoints.flatten({"a": {"b": 1}, "c": 2}) == {"a.b": 1, "c": 2}
