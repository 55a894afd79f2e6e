"""The training loop: resumes exactly, stops at a bad loss, keeps what is frozen."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import checkpoints, errors, metrics, optimizers, sharding, training

MODEL = nn.Dense(3, name="dense")
OPTIMIZER = dict(learning_rate=0.1, warmup_steps=1, weight_decay=0.01)


def init_fn(key):
    """A linear map, and a counter that stands for running statistics."""
    params = {"dense": MODEL.init(key, jnp.zeros((1, 4)))["params"]}
    return {"params": params, "batch_stats": {"count": jnp.zeros(())}}


def loss_fn(params, variables, batch, key):
    noise = jax.random.normal(key, batch["x"].shape)  # so that a resumed run needs the same randomness
    out = MODEL.apply({"params": params["dense"]}, batch["x"] + 0.1 * noise)
    loss = jnp.mean(jnp.square(out - batch["y"]))
    count = variables["batch_stats"]["count"] + 1
    return loss, ({"size": jnp.mean(jnp.abs(out))}, {"batch_stats": {"count": count}})


class Numbers:
    """A stream whose batch n is a function of n; batch `bad` holds a NaN."""

    def __init__(self, bad=None):
        self.position, self.bad = 0, bad

    def __iter__(self):
        return self

    def __next__(self):
        random = np.random.default_rng(self.position)
        batch = {"x": random.normal(size=(8, 4)), "y": random.normal(size=(8, 3))}
        if self.position == self.bad:
            batch["y"][0, 0] = np.nan
        self.position += 1
        return {name: rows.astype(np.float32) for name, rows in batch.items()}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


@functools.cache
def program(frozen=""):
    """(tx, compiled step) shared by the runs below."""
    tx, _ = optimizers.make(100, **OPTIMIZER, frozen=frozen)
    return tx, training.make_train_step(loss_fn, tx, seed=3)


def train(workdir, num_steps, stream=None, every=2, log_every=1, frozen="", step=None):
    """One start of a program: resume or begin, train to `num_steps`."""
    stream, (tx, compiled) = stream or Numbers(), program(frozen)
    mesh, init = sharding.make_mesh(), training.make_init(init_fn, tx)
    with jax.set_mesh(mesh), checkpoints.Checkpoints(workdir, {"seed": 3}, {"a": 1}, every) as saved:
        state = saved.restore_or(
            training.abstract_state(init, mesh), lambda: training.init_sharded(init, mesh, 3), stream
        )
        writer = metrics.Writer(workdir, "test")
        return training.fit(state, step or compiled, stream, saved, writer, mesh, num_steps, log_every)


def rows(workdir):
    kept = ("step", "loss", "size", "grad_norm")
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: row[k] for k in kept} for row in map(json.loads, lines)]


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(state, metrics) of 4 steps without a stop."""
    folder = tmp_path_factory.mktemp("straight")
    return train(folder, 4), rows(folder)


def test_a_resumed_run_is_the_run_that_never_stopped(straight, tmp_path):
    train(tmp_path, 2)
    state = train(tmp_path, 4)
    equal(state, straight[0])
    assert rows(tmp_path) == straight[1] and [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert int(state.step) == 4 and float(state.variables["batch_stats"]["count"]) == 4


def test_steps_after_the_last_checkpoint_are_repeated_not_doubled(straight, tmp_path):
    def killed(state, batch):
        if int(state.step) == 3:
            raise KeyboardInterrupt
        return program()[1](state, batch)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 4, step=killed)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]
    with (tmp_path / "metrics.jsonl").open("a") as file:  # of the third step, which no checkpoint holds
        file.write(json.dumps({"step": 3, "loss": 9.0, "size": 9.0, "grad_norm": 9.0}) + "\n")
        file.write('{"step": 4, "lo')  # and half a line
    equal(train(tmp_path, 4), straight[0])
    assert rows(tmp_path) == straight[1]


def test_a_finished_run_does_nothing(straight, tmp_path):
    train(tmp_path, 4)
    before = (tmp_path / "metrics.jsonl").read_text()

    def never(state, batch):
        raise AssertionError("a step was taken")

    equal(train(tmp_path, 4, step=never), straight[0])
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_randomness_changes_from_step_to_step():
    tx, step = program()
    mesh, batch = sharding.make_mesh(), next(Numbers())
    losses = []
    with jax.set_mesh(mesh):
        for at in (0, 0, 1):
            state = training.init_sharded(training.make_init(init_fn, tx), mesh, 3)
            state = state.replace(step=jnp.full_like(state.step, at))
            losses.append(float(step(state, sharding.global_batch(mesh, batch))[1]["loss"]))
    assert losses[0] == losses[1] != losses[2]


def test_the_loss_falls(tmp_path):
    class Same(Numbers):
        def __next__(self):
            self.position = 0
            return super().__next__()

    train(tmp_path, 20, Same(), every=100)
    losses = [row["loss"] for row in rows(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_bad_loss_names_its_step_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(errors.UserError, match="nan at step 4.*last good checkpoint is step 2"):
        train(tmp_path, 8, Numbers(bad=3))
    assert checkpoints.resolve(tmp_path).name == "2"
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert np.isfinite(train(tmp_path, 4).params["dense"]["kernel"]).all()  # with better data it goes on


def test_a_bad_loss_between_two_logged_steps_is_never_saved(tmp_path):
    with pytest.raises(errors.UserError, match="nan"):
        train(tmp_path, 8, Numbers(bad=3), log_every=100)
    assert checkpoints.resolve(tmp_path).name == "2"


def test_bad_gradients_under_a_finite_loss_are_never_saved(tmp_path):
    """They make the weights bad, which the loss only shows one step later."""
    tx, _ = optimizers.make(100, **OPTIMIZER)

    @jax.custom_vjp
    def poison(params, slope):
        return jnp.zeros(())

    poison.defvjp(
        lambda params, slope: (jnp.zeros(()), (params, slope)),
        lambda kept, _: (jax.tree.map(lambda p: jnp.full_like(p, kept[1]), kept[0]), jnp.zeros(())),
    )

    def broken(params, variables, batch, key):
        loss, aux = loss_fn(params, variables, batch, key)
        slope = jnp.where(variables["batch_stats"]["count"] == 3, jnp.nan, 0.0)
        return loss + poison(params, slope), aux

    step = training.make_train_step(broken, tx, seed=3)
    with pytest.raises(errors.UserError, match="step 4"):
        train(tmp_path, 8, step=step)
    assert checkpoints.resolve(tmp_path).name == "2"


def test_frozen_parameters_keep_their_values_and_others_do_not(tmp_path):
    first = jax.tree.map(np.asarray, init_sharded_params())
    params = train(tmp_path, 2, frozen="bias$").params
    np.testing.assert_array_equal(params["dense"]["bias"], first["dense"]["bias"])
    assert np.abs(params["dense"]["kernel"] - first["dense"]["kernel"]).min() > 1e-4
    with pytest.raises(errors.UserError, match="frozen='mystery' matches no parameter"):
        train(tmp_path / "other", 2, frozen="mystery")


def init_sharded_params():
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        return training.init_sharded(training.make_init(init_fn), mesh, 3).params


def test_weight_decay_is_for_matrices_and_the_schedule_warms_up_and_falls():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,)), "layers": {"scale": jnp.ones((3, 2))}}
    tx, schedule = optimizers.make(10, 0.1, end_learning_rate=0.01, warmup_steps=2, weight_decay=0.5)
    state, start, zeros = tx.init(params), params, jax.tree.map(jnp.zeros_like, params)
    for i in range(2):  # the first update has learning rate 0
        params, state = tx.step(zeros, state, params, jax.random.key(i))
    assert np.all(params["kernel"] < start["kernel"]) and np.all(params["bias"] == start["bias"])
    assert np.all(params["layers"]["scale"] == 1)
    np.testing.assert_allclose([schedule(i) for i in (0, 1, 2, 10)], [0.0, 0.05, 0.1, 0.01], rtol=1e-5)


def test_speed_and_learning_rate_are_logged(tmp_path):
    tx, step = program()
    mesh, init = sharding.make_mesh(), training.make_init(init_fn, tx)
    with jax.set_mesh(mesh), checkpoints.Checkpoints(tmp_path, {"seed": 3}, {"a": 1}) as saved:
        state = training.init_sharded(init, mesh, 3)
        writer = metrics.Writer(tmp_path, "test")
        training.fit(state, step, Numbers(), saved, writer, mesh, 3, 2, schedule=lambda i: 10.0 + i)
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found] == [1, 2, 3] and {row["split"] for row in found} == {"train"}
    assert [row["learning_rate"] for row in found] == [10.0, 11.0, 12.0]
    assert found[0]["first_step_seconds"] > 0 and all(row["steps_per_second"] > 0 for row in found[1:])
