"""What is not trained has no gradient, no optimizer state and a dtype of its own, but may still be maintained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import checkpoints, errors, optimizers, sharding, training

WIDTH, LAYERS = 96, 6
RATES = dict(learning_rate=0.1, warmup_steps=0, weight_decay=0.01)


def init_fn(key):
    """A frozen body of matrices, and a head."""
    keys = jax.random.split(key)
    body = jax.random.normal(keys[0], (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5
    layers = {"attention": {"wq": {"kernel": body}}, "norm": {"scale": jnp.ones((LAYERS, WIDTH))}}
    head = {"kernel": jax.random.normal(keys[1], (WIDTH, 8)), "bias": jnp.zeros(8)}
    return {"params": {"layers": layers, "head_latent": head}, "batch_stats": {"count": jnp.zeros(())}}


def loss_fn(params, variables, batch, key):
    del key
    layers, head = params["layers"], params["head_latent"]

    def layer(x, own):
        return jnp.tanh(x @ own["attention"]["wq"]["kernel"]) * own["norm"]["scale"], None

    x, _ = jax.lax.scan(layer, batch["x"], layers)
    return jnp.mean(jnp.square(x @ head["kernel"] + head["bias"] - batch["y"])), ({}, variables)


def batch():
    random = np.random.default_rng(0)
    return {"x": random.normal(size=(8, WIDTH)).astype(np.float32), "y": np.ones((8, 8), np.float32)}


@functools.cache
def trained(trainable="", frozen="", **dtypes):
    """(state after two steps, metrics, the first parameters, the step, an abstract state)."""
    tx, _ = optimizers.make(10, **RATES, trainable=trainable, frozen=frozen)
    mesh, init = sharding.make_mesh(), training.make_init(init_fn, tx, **dtypes)
    step = training.make_train_step(loss_fn, tx, watch={"body_norm": "wq", "head_norm": "head"})
    with jax.set_mesh(mesh):
        state = training.init_sharded(init, mesh, 0)
        first = jax.tree.map(lambda x: np.asarray(x, np.float32), state.params)
        abstract = training.abstract_state(init, mesh)
        for _ in range(2):
            state, metrics = step(state, sharding.global_batch(mesh, batch()))
    return state, metrics, first, step, abstract


def distance(tree, first):
    return jax.tree.map(lambda a, b: float(np.abs(np.asarray(a, np.float32) - b).max()), tree, first)


@pytest.mark.parametrize("how", [dict(frozen="^layers/"), dict(trainable="^head_latent/")])
def test_what_is_frozen_keeps_its_values(how):
    state, metrics, first, *_ = trained(**how)
    moved = distance(state.params, first)
    assert moved["layers"]["attention"]["wq"]["kernel"] == moved["layers"]["norm"]["scale"] == 0
    assert moved["head_latent"]["kernel"] > 0.1 and moved["head_latent"]["bias"] > 0.1
    assert "body_norm" not in metrics  # there is no such gradient
    np.testing.assert_allclose(metrics["head_norm"], metrics["grad_norm"])


def test_what_is_trained_takes_the_steps_it_would_take_alone():
    """The same as when everything has a gradient and the others' is thrown away."""
    state, *_ = trained(frozen="^layers/")
    tx, _ = optimizers.make(10, **RATES)
    params = init_fn(jax.random.key(0))["params"]
    head, opt_state = params["head_latent"], tx.init(params["head_latent"])
    for _ in range(2):
        grads = jax.grad(lambda p: loss_fn(p, {}, batch(), None)[0])({**params, "head_latent": head})["head_latent"]
        head, opt_state = tx.step(grads, opt_state, head, jax.random.key(0))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=5e-5), state.params["head_latent"], head
    )


def test_optimizer_state_is_that_of_what_is_trained():
    state, *_ = trained(frozen="^layers/")
    names = {sharding.path_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(state.opt_state)}
    assert {name for name in names if name.startswith("mu/")} == {"mu/head_latent/kernel", "mu/head_latent/bias"}
    assert not [name for name in names if "layers" in name]
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(state.params["head_latent"]))


def products(step, abstract):
    """Shapes of all matrix products in the program, loops included."""
    shapes = {name: jax.ShapeDtypeStruct(rows.shape, rows.dtype) for name, rows in batch().items()}
    found = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.append(equation.outvars[0].aval.shape)
            for inner in equation.params.values():
                if hasattr(inner, "jaxpr"):  # of a loop, or of a function inside
                    walk(inner.jaxpr)

    walk(jax.make_jaxpr(step)(abstract, shapes).jaxpr)
    return found


def test_no_gradient_of_a_frozen_matrix_is_computed():
    whole, part = (trained(frozen=frozen)[3:] for frozen in ("", "^layers/"))
    assert (WIDTH, WIDTH) in products(*whole)
    assert (WIDTH, WIDTH) not in products(*part)
    assert len(products(*whole)) == 6  # layer and head forward, and two gradients of each
    assert len(products(*part)) == 3  # layer and head forward, and the head's gradient


def test_nor_is_it_held():
    def temporary(step, abstract):
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (abstract, batch()))
        with jax.set_mesh(mesh):
            return step.lower(*one).compile().memory_analysis().temp_size_in_bytes

    body = 4 * LAYERS * WIDTH * WIDTH
    assert temporary(*trained(frozen="^layers/")[3:]) < body / 2
    assert temporary(*trained()[3:]) > body


def test_maintenance_may_change_what_is_not_trained():
    tx, _ = optimizers.make(10, **RATES, frozen="^layers/")

    def maintain(params, variables, key):
        del key
        layers = jax.tree.map(lambda x: x + 1.0, params["layers"])
        head = {**params["head_latent"], "bias": params["head_latent"]["bias"] + 5.0}
        return {"layers": layers, "head_latent": head}, {"batch_stats": {"count": jnp.float32(7)}}

    state = training.make_init(init_fn, tx)(jax.random.key(0))
    first = jax.tree.map(np.asarray, state.params)
    state, _ = training.make_train_step(loss_fn, tx, maintain=maintain)(state, batch())
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, first)
    np.testing.assert_allclose(moved["layers"]["norm"]["scale"], 1.0)
    np.testing.assert_allclose(moved["head_latent"]["bias"], 5.0, atol=0.11)
    assert np.abs(moved["head_latent"]["bias"] - 5.0).min() > 0.05  # and the update came on top
    assert float(state.variables["batch_stats"]["count"]) == 7


def test_dtypes_are_chosen_for_both_parts():
    state, metrics, first, *_ = trained(frozen="^layers/", frozen_dtype="bfloat16")
    dtypes = jax.tree.map(lambda x: x.dtype, state.params)
    assert set(jax.tree.leaves(dtypes["layers"])) == {jnp.dtype("bfloat16")}
    assert set(jax.tree.leaves(dtypes["head_latent"])) == {jnp.dtype("float32")}
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(state.opt_state))
    exact = trained(frozen="^layers/")[1]
    np.testing.assert_allclose(metrics["loss"], exact["loss"], rtol=0.02)
    assert float(metrics["loss"]) != float(exact["loss"])


def test_trained_parameters_may_be_low_too():
    state, metrics, first, *_ = trained(param_dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(metrics["loss"], trained()[1]["loss"], rtol=0.1)
    assert min(jax.tree.leaves(distance(state.params, first))) > 0
    with pytest.raises(errors.UserError, match="no frozen_dtype 'float16'; choose float32 or bfloat16"):
        training.make_init(init_fn, optimizers.make(10, **RATES)[0], frozen_dtype="float16")


def test_a_partial_run_is_saved_and_restored(tmp_path):
    tx, _ = optimizers.make(10, **RATES, frozen="^layers/")
    mesh, init = sharding.make_mesh(), training.make_init(init_fn, tx, frozen_dtype="bfloat16")
    state = trained(frozen="^layers/", frozen_dtype="bfloat16")[0]
    with jax.set_mesh(mesh), checkpoints.Checkpoints(tmp_path, {"seed": 0}) as saved:
        saved.save(2, state, {"position": 0})
        saved.wait()
        stream = type("Stream", (), {"set_state": lambda *_: None})
        found = saved.restore_or(training.abstract_state(init, mesh), lambda: pytest.fail("not new"), stream)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, state)
