"""Moving averages of what is trained: kept beside the weights, evaluated in their place, never resumed from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import checkpoints, errors, optimizers, sharding, training

DECAY = 0.3


def init_fn(key):
    body, head = (0.1 * jax.random.normal(k, (16, 16)) for k in jax.random.split(key))
    params = {"attention": {"wq": {"kernel": body}}, "head_latent": {"kernel": head, "bias": jnp.zeros(16)}}
    return {"params": params, "batch_stats": {"count": jnp.zeros(())}}


def loss_fn(params, variables, batch, key):
    head = params["head_latent"]
    out = jnp.tanh(batch["x"] @ params["attention"]["wq"]["kernel"]) @ head["kernel"] + head["bias"]
    return jnp.mean(jnp.square(out - jax.random.normal(key, out.shape))), ({}, variables)


def batch():
    return {"x": np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)}


@functools.cache
def program(ema=DECAY, frozen="attention", param_dtype=None, maintain=None):
    tx, _ = optimizers.make(100, 0.05, ema=ema, frozen=frozen)
    return training.make_init(init_fn, tx, param_dtype), training.make_train_step(loss_fn, tx, maintain=maintain)


def run(steps, axes=(1, 8, 1), **how):
    """[state before, after one step, ...]"""
    init, step = program(**how)
    mesh = sharding.make_mesh(*axes)
    with jax.set_mesh(mesh):
        states = [training.init_sharded(init, mesh, 0)]
        for _ in range(steps):
            states.append(step(jax.tree.map(jnp.copy, states[-1]), sharding.global_batch(mesh, batch()))[0])
    return states


def heads(states):
    return [np.asarray(state.params["head_latent"]["kernel"], np.float64) for state in states]


def test_the_average_is_that_of_the_formula():
    states = run(8)
    expected = heads(states)[0]
    for step, kernel in enumerate(heads(states)[1:]):
        decay = min(DECAY, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * kernel
    found = states[-1].ema["head_latent"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(found - states[-1].params["head_latent"]["kernel"]).max() > 1e-3


def test_it_is_evaluated_in_the_place_of_what_is_trained():
    state = run(3)[-1]
    params = state.eval_params()
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    np.testing.assert_array_equal(params["head_latent"]["kernel"], state.ema["head_latent"]["kernel"])
    np.testing.assert_array_equal(params["attention"]["wq"]["kernel"], state.params["attention"]["wq"]["kernel"])
    assert "attention" not in state.ema
    shown = state.for_evaluation()
    assert shown.ema is None and shown.opt_state is None and int(shown.step) == 3
    assert run(1, ema=0.0)[-1].ema is None and run(1, ema=0.0)[-1].eval_params()["head_latent"]


def test_averages_of_low_parameters_are_float32_and_evaluated_low():
    state = run(2, param_dtype="bfloat16")[-1]
    assert state.ema["head_latent"]["kernel"].dtype == jnp.float32
    assert state.eval_params()["head_latent"]["kernel"].dtype == jnp.bfloat16


def test_averages_are_laid_out_as_their_parameters():
    state = run(1, frozen="")[-1]
    split = 0
    for average, param in zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True):
        assert average.sharding.is_equivalent_to(param.sharding, param.ndim)
        split += not param.sharding.is_fully_replicated
    assert split == 2
    whole = run(4, frozen="")[-1].ema
    for axes in ((2, 2, 2), (8, 1, 1)):
        parts = run(4, axes, frozen="")[-1].ema
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5), whole, parts)


def test_weights_loaded_after_the_start_are_what_is_averaged():
    init, step = program()
    state = init(jax.random.key(0))
    loaded = jax.tree.map(lambda x: x + 100.0, state.params)
    state, _ = step(state.replace(params=loaded), batch())
    assert float(jnp.min(state.ema["head_latent"]["kernel"])) > 99


def test_what_maintenance_moves_is_moved_in_the_average():
    def restart(params, variables, key):
        del key
        head = params["head_latent"]
        jump = jnp.where(variables["batch_stats"]["count"] == 3, 50.0, 0.0)
        count = {"batch_stats": {"count": variables["batch_stats"]["count"] + 1}}
        return {**params, "head_latent": {**head, "bias": head["bias"] + jump}}, count

    before, after = run(4, maintain=restart)[-2:]
    assert np.abs(before.ema["head_latent"]["bias"]).max() < 1
    np.testing.assert_allclose(after.ema["head_latent"]["bias"], 50, atol=1)


@pytest.mark.parametrize("ema", [-0.1, 1.0, 2.0])
def test_what_is_no_decay_is_refused(ema):
    with pytest.raises(errors.UserError, match="optimizer.ema=.* is no decay"):
        optimizers.make(10, 0.1, ema=ema)


class Stream:
    def set_state(self, state):
        pass


def saved(folder, state, config=None):
    run = checkpoints.Checkpoints(folder, config or {"optimizer": {"ema": DECAY}})
    with run:
        run.save(int(state.step), state, {"position": 0})
        run.wait()
    return folder


def abstract(**how):
    return training.abstract_state(program(**how)[0], sharding.make_mesh())


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("frozen", ["attention", ""])
def test_a_checkpoint_is_read_with_its_averages_or_without(tmp_path, frozen):
    state = run(3, frozen=frozen)[-1]
    folder = saved(tmp_path, state)
    whole = abstract(ema=0.0, frozen="")
    equal(checkpoints.load_state(folder, whole).params, state.eval_params())
    equal(checkpoints.load_state(folder, whole, averaged=False).params, state.params)
    assert checkpoints.load_state(folder, whole).ema is None


def test_a_resumed_run_goes_on_from_the_weights(tmp_path):
    states = run(4)
    folder = saved(tmp_path, states[2])
    with checkpoints.Checkpoints(folder, {"optimizer": {"ema": DECAY}}) as found:
        state = found.restore_or(abstract(), lambda: pytest.fail("not new"), Stream())
    equal(state, states[2])
    step, mesh = program()[1], sharding.make_mesh()
    with jax.set_mesh(mesh):
        for _ in range(2):
            state, _ = step(state, sharding.global_batch(mesh, batch()))
    equal(state, states[4])


def test_a_run_without_averages_stores_none_and_gets_none_later(tmp_path):
    state = run(2, ema=0.0)[-1]
    folder = saved(tmp_path, state, {"optimizer": {"ema": 0.0}})
    assert "ema" not in checkpoints.ocp.metadata(checkpoints.resolve(folder), "state").metadata
    equal(checkpoints.load_state(folder, abstract()).params, state.params)
    with checkpoints.Checkpoints(folder, {"optimizer": {"ema": 0.0}}) as found:
        equal(found.restore_or(abstract(ema=0.0), lambda: None, Stream()), state)
    with pytest.raises(errors.UserError, match="optimizer.ema: 0.0 there, 0.9 now"):
        checkpoints.Checkpoints(folder, {"optimizer": {"ema": 0.9}})
