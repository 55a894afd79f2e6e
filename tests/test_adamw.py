"""AdamW in 32, 16 and 8 bits: optax's in the first, its course and its results in the others."""

import collections
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lapa_jax import checkpoints, errors, moments, optimizers, sharding, stacks, training
from lapa_jax.models import llama

FORMATS = ("float32", "bfloat16", "float8")
RATES = dict(learning_rate=0.01, warmup_steps=3, b2=0.99, weight_decay=0.1, clip_norm=1.0)
STACK = (4, 64, 128)


@pytest.fixture
def large(monkeypatch):
    """Stacks in these tests count as large ones."""
    monkeypatch.setattr(stacks, "LARGE", 1000)


def params(dtype=jnp.float32):
    keys = iter(jax.random.split(jax.random.key(0), 4))
    layers = {"attention": {"wq": {"kernel": jax.random.normal(next(keys), STACK)}}}
    layers |= {"attention_norm": {"scale": jnp.ones((4, 2048))}}
    head = {"kernel": jax.random.normal(next(keys), (128, 64)), "bias": jnp.zeros(8192)}
    small = {"kernel": jax.random.normal(next(keys), (32, 64))}
    tree = {"body": {"layers": layers}, "head_text": head, "head_latent": small}
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def gradients(step, like):
    """Of very different sizes from column to column, and small enough at times not to be clipped."""

    def one(path, x):
        key = jax.random.fold_in(jax.random.key(step), len(path))
        size = jnp.exp(jnp.linspace(-4, 2, x.shape[-1])) * (1e-4 if step % 3 else 1.0)
        return (jax.random.normal(key, x.shape) * size).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(one, like)


def run(steps, start, **how):
    """(parameters, state) after some steps."""
    optimizer, _ = optimizers.make(50, **{**RATES, **how})
    step, state, tree = jax.jit(optimizer.step), optimizer.init(start), start
    for i in range(steps):
        tree, state = step(gradients(i, tree), state, tree, jax.random.key(i))
    return tree, state


@functools.cache
def by_optax(steps):
    _, schedule = optimizers.make(50, **RATES)
    matrix = functools.partial(jax.tree_util.tree_map_with_path, lambda path, p: path[-1].key == "kernel")
    adamw = optax.adamw(schedule, b1=0.9, b2=RATES["b2"], weight_decay=RATES["weight_decay"], mask=matrix)
    tx, tree = optax.chain(optax.clip_by_global_norm(RATES["clip_norm"]), adamw), params()
    state, update = tx.init(tree), jax.jit(tx.update)
    for i in range(steps):
        updates, state = update(gradients(i, tree), state, tree)
        tree = optax.apply_updates(tree, updates)
    return tree, state[1][0]


def close(found, expected, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), found, expected)


@pytest.mark.parametrize("layers", [False, True])
def test_float32_is_optax(layers, monkeypatch):
    if layers:
        monkeypatch.setattr(stacks, "LARGE", 1000)
    (tree, state), (expected, theirs) = run(20, params()), by_optax(20)
    close(tree, expected, rtol=1e-6, atol=1e-6)
    close((state.mu, state.nu), (theirs.mu, theirs.nu), rtol=2e-5, atol=1e-12)
    assert int(state.count) == 20
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).mean()), tree, params())
    assert min(jax.tree.leaves(moved)) > 0.01  # or the comparison would say little


@pytest.mark.parametrize("name, near", [("bfloat16", 0.02), ("float8", 0.25)])
def test_low_moments_take_nearly_the_same_course(name, near, large):
    tree, state = run(20, params(), moments=name)
    distance = jax.tree.map(lambda a, b: np.asarray(a - b), tree, by_optax(20)[0])
    way = jax.tree.map(lambda a, b: np.asarray(a - b), by_optax(20)[0], params())
    for path in (("body", "layers", "attention", "wq"), ("head_text",)):
        error, length = (functools.reduce(dict.get, path, part)["kernel"] for part in (distance, way))
        assert 0 < np.linalg.norm(error) < near * np.linalg.norm(length)
        assert abs(np.sum(error * length) / np.sum(length**2)) < near / 5  # no shorter and no longer on average
    for name in ("body", "head_text", "head_latent"):
        small = [leaf for leaf in jax.tree.leaves(distance[name]) if leaf.shape in ((4, 2048), (8192,), (32, 64))]
        assert all(np.abs(leaf).max() < 1e-6 for leaf in small)


@pytest.mark.parametrize("name, size", [("float32", 8.0), ("bfloat16", 4.0), ("float8", 2 + 2 / 64)])
def test_bytes_of_the_state(name, size):
    """Norms, biases and small matrices stay float32."""
    state = optimizers.make(50, **RATES, moments=name)[0].init(params())
    low, high = 4 * 64 * 128 + 128 * 64, 4 * 2048 + 8192 + 32 * 64
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == size * low + 8 * high + 4
    with pytest.raises(errors.UserError, match="no optimizer.moments 'int4'; choose one of float32, bfloat16, f"):
        optimizers.make(50, **RATES, moments="int4")


DECAYS = [
    ("bfloat16", 0.95), ("float8", 0.95), ("float8", 0.99),
    *(pytest.param(name, 0.999, marks=pytest.mark.slow) for name in ("bfloat16", "float8")),
]  # fmt: skip


def means_of_squares(name, b2, sizes):
    """v after gradients of those sizes: float64[64, 128]."""
    optimizer, _ = optimizers.make(10, learning_rate=0.0, b2=b2, clip_norm=1e9, moments=name)
    tree = {"kernel": jnp.zeros((64, 128))}

    def one(state, step):
        i, size = step
        grads = {"kernel": size * jax.random.normal(jax.random.fold_in(jax.random.key(1), i), (64, 128))}
        return optimizer.step(grads, state, tree, jax.random.fold_in(jax.random.key(2), i))[1], None

    steps = jnp.arange(len(sizes)), jnp.float32(sizes)
    state, _ = jax.jit(lambda state: jax.lax.scan(one, state, steps))(optimizer.init(tree))
    own = moments.Moments(*(part["kernel"] for part in state[1:]))
    return np.asarray(moments.format_of(own).read(own)[1], np.float64)


@pytest.mark.parametrize("name, b2", DECAYS)
def test_stored_averages_scatter_around_the_true_ones(name, b2):
    scatter = {"bfloat16": 0.06, "float8": 0.33}[name]
    sizes = np.ones(round(3 / (1 - b2)))
    ratio = means_of_squares(name, b2, sizes) / means_of_squares("float32", b2, sizes)
    assert abs(ratio.mean() - 1) < 0.02 and scatter / 10 < ratio.std() < scatter


@pytest.mark.parametrize("name, b2", DECAYS)
def test_an_average_follows_when_gradients_become_small(name, b2):
    """Rounded to the nearest it would stand still: a step changes it by less than half the way to a neighbour."""
    steps = round(2 / (1 - b2))
    found = means_of_squares(name, b2, np.where(np.arange(3 * steps) < steps, 1.0, 0.1))
    expected = (1 - b2**steps) * b2 ** (2 * steps) + 0.01 * (1 - b2 ** (2 * steps))
    np.testing.assert_allclose(found.mean(), expected, rtol=0.04)


def test_low_parameters_move_by_updates_far_below_their_spacing(large):
    """1/2000 of a weight: bfloat16 tells 1/256 apart."""
    rates = dict(learning_rate=5e-4, end_learning_rate=5e-4, moments="float8")
    optimizer, _ = optimizers.make(1000, **rates)
    start = jax.tree.map(jnp.ones_like, params(jnp.bfloat16))
    tree, state, step = start, optimizer.init(start), jax.jit(optimizer.step)
    grads = jax.tree.map(jnp.negative, start)
    for i in range(200):
        tree, state = step(grads, state, tree, jax.random.key(i))
    for leaf in jax.tree.leaves(tree):
        assert leaf.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(leaf, np.float32).mean(), 1.1, atol=3e-3)


@pytest.fixture
def optimised():
    """The suite compiles without most optimizations, among them fusion."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("name", FORMATS)
def test_memory_on_the_way_is_well_below_the_parameters(name, optimised, monkeypatch):
    optimizer, _ = optimizers.make(10, **RATES, moments=name)
    stack = {"wq": {"kernel": jnp.zeros((32, 64, 128))}, "w1": {"kernel": jnp.zeros((32, 64, 128))}}
    key = jax.random.key(0)

    def temporary():
        run = jax.jit(lambda tree, state, grads: optimizer.step(grads, state, tree, key), donate_argnums=(0, 1))
        return run.lower(stack, optimizer.init(stack), stack).compile().memory_analysis().temp_size_in_bytes

    size = 4 * 2 * 32 * 64 * 128
    whole = temporary()
    monkeypatch.setattr(stacks, "LARGE", 1000)
    assert temporary() < size / 5 < size / 2 < whole


def sharded(axes, name):
    """(parameters, state) after two steps on a mesh, and what the compiled step communicates."""
    mesh, optimizer = sharding.make_mesh(*axes), optimizers.make(50, **{**RATES, "clip_norm": 1e9}, moments=name)[0]
    with jax.set_mesh(mesh):
        first = params(), optimizer.init(params())
        tree, state = (jax.device_put(x, sharding.tree_shardings(mesh, x)) for x in first)
        step = jax.jit(optimizer.step, out_shardings=jax.tree.map(lambda x: x.sharding, (tree, state)))
        for i in range(2):
            grads = jax.device_put(gradients(i, params()), sharding.tree_shardings(mesh, tree))
            args = grads, state, tree, jax.random.key(i)
            tree, state = step(*args)
        text = step.lower(*args).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    return tree, state, collections.Counter(re.findall(rf" ({kinds})(?:-start)?\(", text))


@pytest.mark.parametrize(
    "name, axes", [("float8", (2, 2, 2)), ("float8", (1, 8, 1)), ("bfloat16", (2, 2, 2)), ("float32", (1, 8, 1))]
)
def test_sharded_steps_are_the_unsharded_ones(name, axes, large):
    """To the bit, since the randomness of a number depends on its place in the whole."""
    tree, state, talk = sharded(axes, name)
    optimizer, expected = optimizers.make(50, **{**RATES, "clip_norm": 1e9}, moments=name)[0], params()
    own, step = optimizer.init(expected), jax.jit(optimizer.step)
    for i in range(2):
        expected, own = step(gradients(i, params()), own, expected, jax.random.key(i))
    close(tree, expected, rtol=1e-6, atol=1e-7)
    jax.tree.map(np.testing.assert_array_equal, state.mu["body"], own.mu["body"])
    assert not state.mu["body"]["layers"]["attention"]["wq"]["kernel"].sharding.is_fully_replicated
    assert set(talk) <= {"all-reduce"} and talk["all-reduce"] <= 6  # the norm, and peaks of blocks that are cut


class Copier(nn.Module):
    """A small trunk that says a sequence again."""

    vocab: int = 24

    @nn.compact
    def __call__(self, tokens):
        batch, length = tokens.shape
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (batch, 1, length, length))
        x = nn.Embed(self.vocab, 64, name="embed_text")(tokens)
        x, _ = llama.Trunk(**llama.SIZES["debug"], name="body")(x, jnp.tile(jnp.arange(length), (batch, 1)), mask)
        return nn.Dense(self.vocab, use_bias=False, name="head_text")(x)


def sequences(i, half=6):
    """8 words and then the same again, one in ten replaced: int32[32, 2 half + 2]; 0 stands before each."""
    random = np.random.default_rng(i)
    first = random.integers(1, 24, (32, half))
    second = np.where(random.random((32, half)) < 0.1, random.integers(1, 24, (32, half)), first)
    zero = np.zeros((32, 1), np.int64)
    return {"tokens": np.concatenate([zero, first, zero, second], axis=1).astype(np.int32)}


def copy_loss(half, params, variables, batch, key):
    del key
    logits = Copier().apply({"params": params}, batch["tokens"][:, :-1])[:, half + 1 :]
    targets = batch["tokens"][:, half + 2 :]
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.mean(loss), ({}, variables)


def learner(**how):
    rates = dict(learning_rate=3e-3, warmup_steps=20, b2=0.99, weight_decay=0.01)
    tx, _ = optimizers.make(150, **rates, **how)
    init = training.make_init(lambda key: Copier().init(key, jnp.zeros((1, 13), jnp.int32)), tx)
    return init, training.make_train_step(functools.partial(copy_loss, 6), tx, seed=1)


@functools.cache
def learned(name):
    """Mean loss of the last 20 of 150 steps."""
    init, step = learner(moments=name)
    state, losses = jax.jit(init)(jax.random.key(0)), []
    for i in range(150):
        state, metrics = step(state, sequences(i))
        losses.append(metrics["loss"])
    return float(losses[0]), float(np.mean(losses[-20:]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "float8"])
def test_a_trunk_learns_to_copy_as_well_as_in_float32(name):
    first, best = learned("float32")
    assert best < 0.3 * first
    assert learned(name)[1] == pytest.approx(best, rel=0.03)


def test_a_restarted_run_is_bit_by_bit_the_one_that_never_stopped(tmp_path):
    init, step = learner(moments="float8", ema=0.9)
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh), checkpoints.Checkpoints(tmp_path, {"seed": 0}) as saved:
        state = training.init_sharded(init, mesh, 0)
        for i in range(4):
            if i == 2:
                saved.save(2, state, {"position": 0})
                saved.wait()
            state, _ = step(state, sharding.global_batch(mesh, sequences(i)))
        stream = type("Stream", (), {"set_state": lambda *_: None})
        again = saved.restore_or(training.abstract_state(init, mesh), lambda: pytest.fail("not new"), stream)
        dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(again.opt_state)}
        assert dtypes == {"uint8", "int8", "float32", "int32"}
        for i in range(2, 4):
            again, _ = step(again, sharding.global_batch(mesh, sequences(i)))
    jax.tree.map(np.testing.assert_array_equal, again, state)
