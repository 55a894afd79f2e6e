"""What devices send each other in a training step of a small VLM on 8 fake devices, by the compiled program."""

import collections
import functools

import jax
import jax.numpy as jnp
import pytest

from lapa_jax import optimizers, sharding, training, vocab
from lapa_jax.models import linear, llama_layers, vlm
from lapa_jax.models.token_stream import Tokens
from lapa_jax.planning import collectives

WIDTH, DEPTH, ROWS, LENGTH = 32, 3, 64, 64
ACTIVATIONS = 4 * ROWS * LENGTH * WIDTH
"""Bytes of what runs along the residuals; more than three times those of the parameters."""


@functools.cache
def parts():
    trunk = dict(width=WIDTH, depth=DEPTH, num_heads=4, mlp_dim=64)
    model = vlm.LatentActionVLM(vocabs=dict(text=64), heads=("text",), trunk=trunk)
    run = dict(names=("text",), method="logits_of")

    def loss_fn(params, variables, batch, key):
        logits = model.apply({"params": params}, Tokens.of(batch["ids"], vocab.TEXT), **run)["text"]
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 3]), ({}, variables)

    init = training.make_init(lambda key: model.init(key, Tokens.of(jnp.ones((1, 2)), vocab.TEXT), **run), tx())
    return init, loss_fn


def tx():
    return optimizers.make(10, 1e-3)[0]


def sent(axes):
    """Bytes that each device sends in a step, by kind; and bytes of the parameters."""
    mesh, (init, loss_fn) = sharding.make_mesh(*axes), parts()
    state = training.abstract_state(init, mesh)
    rows = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32, sharding=jax.NamedSharding(mesh, sharding.BATCH))
    with jax.set_mesh(mesh):
        program = training.make_train_step(loss_fn, tx()).lower(state, {"ids": rows}).compile().as_text()
    found = collections.Counter(collectives.sent_by_kind(collectives.of(program)))
    return found, sum(4 * leaf.size for leaf in jax.tree.leaves(state.params))


def expected(axes, params):
    """Parameters are gathered forward and backward, gradients reduced over all that share them; `tensor` reduces
    activations, twice a layer forward and five times backward; keys, values and their gradients go round."""
    data, fsdp, tensor, ring = axes
    copies = data * fsdp * ring
    kept = ACTIVATIONS / copies
    reduced = 2 * (copies - 1) / copies * params / tensor + (7 * DEPTH + 2) * kept * 2 * (tensor - 1) / tensor
    passed = 2 * (ring - 1) + 2 * (ring - 1) + 2 * ring if ring > 1 else 0
    return {
        "all-gather": 2 * (fsdp - 1) / fsdp * params / tensor,
        "all-reduce": reduced,
        "collective-permute": DEPTH * passed * kept / tensor,
    }


def check(axes):
    found, params = sent(axes)
    assert ACTIVATIONS > 3 * params
    gradients = found.pop("reduce-scatter", 0.0)  # where a compiler makes one of an all-reduce, it is half of it
    found["all-reduce"] += 2 * gradients
    wanted = expected(axes, params)
    for kind in found | wanted:
        most = wanted.get(kind, 0.0)
        assert 0.5 * most < found[kind] + 1 and found[kind] < 1.1 * most + 0.2 * params, (kind, found, wanted)


@pytest.mark.parametrize(
    "axes", [(1, 8, 1, 1), (1, 4, 2, 1), (1, 1, 1, 8), (1, 2, 2, 2)], ids=str
)
def test_a_step_sends_what_its_layout_needs(axes):
    check(axes)


def test_a_missing_constraint_would_be_seen(monkeypatch):
    monkeypatch.setattr(llama_layers, "constrain_tokens", lambda x: x)
    monkeypatch.setattr(vlm, "constrain_tokens", lambda x: x)
    with pytest.raises(AssertionError, match="all-"):
        check((1, 8, 1, 1))


def test_tokens_that_are_gathered_would_be_seen(monkeypatch):
    """As they are when a layer makes one axis of batch and tokens."""
    monkeypatch.setattr(linear, "rows", lambda x: x.reshape(-1, x.shape[-1]))
    with pytest.raises(AssertionError, match="all-gather"):
        check((1, 1, 1, 8))
