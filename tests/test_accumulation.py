"""Gradients accumulated over micro-batches are those of the whole batch, and no row moves for it."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lapa_jax import accumulation, errors, sharding, training

ROWS, WIDTH = 32, 16
TX = optax.sgd(0.5)


def init_fn(key):
    kernel = jax.random.normal(key, (WIDTH, WIDTH))
    layer = {"attention": {"wq": {"kernel": kernel}}, "head_latent": {"bias": jnp.zeros(WIDTH)}}
    return {"params": layer, "batch_stats": {"mean": jnp.zeros(())}}


def loss_fn(params, variables, batch, key, weighted=True):
    """A mean over the places of a mask, with a running mean of the inputs beside it."""
    del key
    out = jnp.tanh(batch["x"] @ params["attention"]["wq"]["kernel"]) + params["head_latent"]["bias"]
    error, mask = jnp.mean(jnp.square(out - 1.0), axis=-1), batch["mask"].astype(jnp.float32)
    count = jnp.sum(mask)
    loss = jnp.sum(error * mask) / jnp.maximum(count, 1.0)
    log = {"largest": jnp.max(error)} | ({training.WEIGHT: count} if weighted else {})
    mean = 0.5 * variables["batch_stats"]["mean"] + 0.5 * jnp.mean(batch["x"])
    return loss, (log, {"batch_stats": {"mean": mean}})


def batch(rows=ROWS):
    """Rows of very different lengths, sorted by them, so that micro-batches have uneven masks."""
    x = np.random.default_rng(0).normal(size=(rows, 6, WIDTH)).astype(np.float32)
    lengths = np.where(np.arange(rows) % 4 == 0, 6, np.arange(rows) % 2)
    return {"x": x + np.arange(rows)[:, None, None] / 10, "mask": np.arange(6) < lengths[:, None]}


def first(mesh, tx=TX, **dtypes):
    with jax.set_mesh(mesh):
        return training.init_sharded(training.make_init(init_fn, tx, **dtypes), mesh, 0)


def run(count, axes=None, loss_fn=loss_fn, **dtypes):
    """(state, metrics) after one step, on one device or on a mesh of 8."""
    mesh = sharding.make_mesh(*axes) if axes else sharding.make_mesh(devices=jax.devices()[:1])
    step = training.make_train_step(loss_fn, TX, accumulate=count)
    with jax.set_mesh(mesh):
        return step(first(mesh, **dtypes), sharding.global_batch(mesh, batch()))


def close(a, b, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_parts_are_the_whole(count):
    state, metrics = run(count)
    whole, expected = run(1)
    close(state.params, whole.params, rtol=1e-5, atol=1e-6)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    assert set(metrics) == set(expected) == {"loss", "grad_norm", "largest"}


def test_without_weights_they_are_not():
    """The masks are uneven, or the test above could not fail."""
    unweighted = functools.partial(loss_fn, weighted=False)
    loss = [float(run(count, loss_fn=unweighted)[1]["loss"]) for count in (1, 4)]
    assert abs(loss[0] - loss[1]) > 0.01 * loss[0]


@pytest.mark.parametrize("axes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_sharded_parts_are_the_whole(axes):
    state, metrics = run(4, axes)
    whole, expected = run(1)
    close(state.params, whole.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)


def test_parts_are_every_nth_row():
    x = jnp.arange(12).reshape(12, 1)
    np.testing.assert_array_equal(accumulation.part(x, 1, 4)[:, 0], [1, 5, 9])


def test_running_statistics_go_through_the_parts_in_order():
    x, expected = batch()["x"], 0.0
    for i in range(4):
        expected = 0.5 * expected + 0.5 * x[i::4].mean()
    np.testing.assert_allclose(run(4)[0].variables["batch_stats"]["mean"], expected, rtol=1e-5)


def test_nothing_to_learn_is_no_division_by_zero():
    def empty(params, variables, batch, key):
        return loss_fn(params, variables, {**batch, "mask": jnp.zeros_like(batch["mask"])}, key)

    state, metrics = run(4, loss_fn=empty)
    assert float(metrics["loss"]) == float(metrics["grad_norm"]) == 0.0


def test_parts_have_randomness_of_their_own():
    def noisy(params, variables, batch, key):
        loss, (_, variables) = loss_fn(params, variables, batch, key)
        noise = jax.random.normal(key)
        return loss, ({"noise": noise, "square": jnp.square(noise)}, variables)

    log = run(4, loss_fn=noisy)[1]
    assert float(log["square"] - jnp.square(log["noise"])) > 0.01  # the variance over the parts


def test_sums_of_low_gradients_are_float32():
    """In bfloat16 256 + 1 is 256."""

    def linear(params, variables, batch, key):
        slope = jnp.where(batch["x"][0, 0, 0] == 0, 256.0, 1.0)
        return jnp.sum(params["w"].astype(jnp.float32)) * slope, ({}, variables)

    rows = {"x": jnp.arange(4.0).reshape(4, 1, 1)}
    grad_fn = jax.value_and_grad(linear, has_aux=True)
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    _, grads = accumulation.gradients(grad_fn, 4, params, {}, rows, jax.random.key(0))
    assert grads["w"].dtype == jnp.float32
    np.testing.assert_array_equal(grads["w"], 259 / 4)
    assert run(4, param_dtype="bfloat16")[0].params["head_latent"]["bias"].dtype == jnp.bfloat16


@pytest.mark.parametrize("count, axes", [(3, (1, 8, 1)), (8, (1, 8, 1)), (5, None)])
def test_a_batch_that_does_not_divide_is_refused(count, axes):
    shards = 8 if axes else 1
    message = f"32 rows .* into accumulate={count} parts over {shards} devices: set --config.batch_size"
    with pytest.raises(errors.UserError, match=message):
        run(count, axes)


def test_there_are_no_fewer_parts_than_one():
    with pytest.raises(errors.UserError, match="accumulate=0 is no number of parts"):
        run(0)


def collectives(function, mesh, *args):
    """How often each kind of communication stands in the compiled program."""
    with jax.set_mesh(mesh):
        text = jax.jit(function).lower(*args).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    return collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", text))


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_no_row_moves_between_devices(axes):
    """A step in parts communicates what a whole one does; rows taken in order would have to move."""
    mesh = sharding.make_mesh(*axes)
    state, rows = first(mesh), sharding.global_batch(mesh, batch())
    found = [
        collectives(training.make_train_step(loss_fn, TX, accumulate=count), mesh, state, rows) for count in (1, 4)
    ]
    assert found[0] and not found[1] - found[0], found
    cut = functools.partial(accumulation.part, i=1, count=4)
    assert not collectives(cut, mesh, rows["x"])
    in_order = collectives(lambda x: sharding.constrain_batch(x.reshape(4, -1, 6, WIDTH)[1]), mesh, rows["x"])
    assert in_order


def test_parts_take_less_memory():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    state = first(mesh)
    rows = {name: np.tile(x, (64,) + (1,) * (x.ndim - 1)) for name, x in batch().items()}

    def temporary(count):
        step = training.make_train_step(loss_fn, TX, accumulate=count)
        return step.lower(state, rows).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < temporary(1) / 3
