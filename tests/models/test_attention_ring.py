"""Ring attention on fake devices: what plain attention computes, wherever the tokens of a row lie."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from test_attention import (
    a_batch,
    assert_close,
    loss_fn,
    outputs_and_gradients,
    packed,
    padded,
    qkv,
    text_model,
    weights,
)

from lapa_jax import errors, generate, sharding, vocab
from lapa_jax.models import attention, attention_ring
from lapa_jax.models.token_stream import Tokens

XLA, RING = (attention.IMPLEMENTATIONS[name] for name in ("xla", "ring"))


def on_mesh(axes, *args):
    with jax.set_mesh(sharding.make_mesh(*axes, devices=jax.devices()[: int(np.prod(axes))])):
        return outputs_and_gradients(RING, *args)


@pytest.mark.parametrize("segments, devices", [(padded, 2), (packed, 4), (padded, 8), (packed, 8)])
def test_ring_is_xla(segments, devices):
    arrays, segments = qkv(48), segments(48)
    expected = outputs_and_gradients(XLA, arrays, segments, 0.2)
    assert_close(on_mesh((1, 1, 1, devices), arrays, segments, 0.2), expected)


@pytest.mark.parametrize("axes, kv_heads, rows", [
    ((2, 1, 1, 4), 2, 4),
    ((1, 2, 2, 2), 2, 4),
    ((1, 1, 2, 4), 1, 4),  # tensor does not divide the heads of keys
    ((2, 2, 1, 2), 4, 3),  # nor data*fsdp the rows
])
def test_ring_beside_other_axes_is_xla(axes, kv_heads, rows):
    arrays = qkv(24, kv_heads=kv_heads, rows=rows)
    segments = np.concatenate([packed(24), padded(24)])[:rows]
    assert_close(on_mesh(axes, arrays, segments), outputs_and_gradients(XLA, arrays, segments))


@pytest.mark.parametrize("block", [5, 8])
def test_keys_are_looked_at_block_by_block(block, monkeypatch):
    """Also where blocks do not divide them, and without a mesh."""
    monkeypatch.setattr(attention_ring, "BLOCK", block)
    arrays, segments = qkv(24), packed(24)
    expected = outputs_and_gradients(XLA, arrays, segments)
    assert_close(outputs_and_gradients(RING, arrays, segments), expected)
    assert_close(on_mesh((1, 1, 1, 2), arrays, segments), expected)


def test_ring_in_bfloat16_rounds_as_xla_does():
    arrays, segments = qkv(32, dtype=jnp.bfloat16), packed(32)
    exact = outputs_and_gradients(XLA, [x.astype(jnp.float32) for x in arrays], segments)
    found = on_mesh((1, 1, 1, 4), arrays, segments)
    assert [one.dtype for one in found] == [one.dtype for one in outputs_and_gradients(XLA, arrays, segments)]
    assert_close(found, exact, 0.02)


def test_padding_sees_nothing_and_gets_zeros():
    arrays, segments = qkv(16), jnp.asarray(padded(16))
    y = attention.IMPLEMENTATIONS["ring"].attend(*arrays, segments)
    assert not np.any(np.asarray(y)[np.asarray(segments) == 0]) and np.all(np.any(y[0], axis=(1, 2)))


def test_no_device_holds_a_matrix_of_all_pairs():
    """Nor all keys: the largest array of a device's program has its own queries and a block of keys."""
    length, devices = 512, 8
    shape = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def f(q, k, v, segments):
        return jnp.sum(RING.attend(q, k, v, segments, None))

    with jax.set_mesh(sharding.make_mesh(1, 1, 1, devices)):
        traced = jax.make_jaxpr(jax.grad(f, argnums=(0, 1, 2)))(shape, shape, shape, segments)
    parts = list(bodies(traced.jaxpr, "shard_map"))
    assert len(parts) == 2
    sizes = [var.aval.size for body in parts for one in equations(body) for var in one.outvars]
    assert max(sizes) == (length // devices) ** 2


def equations(jaxpr):
    for one in jaxpr.eqns:
        yield one
        for inner in jax.extend.core.jaxprs_in_params(one.params):
            yield from equations(inner)


def bodies(jaxpr, name):
    for one in equations(jaxpr):
        if one.primitive.name == name:
            yield one.params["jaxpr"]


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(errors.UserError, match="rows of 12 tokens do not divide over mesh.sequence=8"):
        on_mesh((1, 1, 1, 8), qkv(12), packed(12))


MESH = (1, 2, 2, 2)


@pytest.fixture(scope="module")
def params():
    return weights()


def trunk_loss_and_gradients(params, axes=(1, 1, 1, 1), **options):
    model, tokens = text_model(**options), a_batch()
    mesh = sharding.make_mesh(*axes, devices=jax.devices()[: int(np.prod(axes))])
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.tree_shardings(mesh, params))
        return jax.jit(jax.value_and_grad(functools.partial(loss_fn, model, tokens)))(placed)


@pytest.mark.parametrize("options", [
    dict(), dict(remat="attention"), dict(attention="xla"),
    dict(local_layers=(True, False), local_window=3),
], ids=str)
def test_a_trunk_over_a_sequence_has_the_loss_and_gradients_of_one_device(params, options):
    """Through the ring by default; whole rows where that cannot be."""
    expected = trunk_loss_and_gradients(params, **options | dict(remat="none"))
    assert_close(trunk_loss_and_gradients(params, MESH, **options), expected)


@pytest.mark.parametrize("options, round", [
    (dict(), True), (dict(attention="ring"), True), (dict(attention="xla"), False),
    (dict(local_layers=(True, False), local_window=3), False),
], ids=str)
def test_which_attention_goes_round(params, options, round):
    with jax.set_mesh(sharding.make_mesh(*MESH)):
        loss = functools.partial(loss_fn, text_model(**options), a_batch())
        traced = jax.make_jaxpr(jax.grad(loss))(params)
    assert any(one.primitive.name == "ppermute" for one in equations(traced.jaxpr)) == round


def test_generation_on_a_mesh_looks_at_whole_rows(params):
    prompt = Tokens.of(a_batch(11).ids, vocab.TEXT, jnp.asarray(padded(11)))  # 11 does not divide either
    run = jax.jit(functools.partial(generate.generate, text_model(), name="text", count=4))
    expected = run({"params": params}, prompt)
    with jax.set_mesh(sharding.make_mesh(*MESH)):
        found = run({"params": params}, prompt)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)


@pytest.mark.parametrize("options, named", [
    (dict(attention="splash"), "'splash' does not split rows over mesh.sequence=2"),
    (dict(attention="cudnn"), "'cudnn' does not split rows over mesh.sequence=2"),
    (dict(attention="ring", local_layers=(True, False), local_window=3), "'ring' has no local_layers"),
])
def test_what_does_not_split_rows_is_named(params, options, named):
    with pytest.raises(errors.UserError, match=named):
        trunk_loss_and_gradients(params, MESH, **options)
