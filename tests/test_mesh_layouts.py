"""Where each number of a train state lives: at published sizes by shape alone, and in small states that train."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
import test_base_shapes
import test_sharding

from lapa_jax import optimizers, sharding, training, vocab
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens

inits = test_base_shapes.inits
LAYOUTS = [(1, 8, 1, 1), (2, 2, 2, 1), (1, 2, 2, 2)]
FEW = r"(position_bias/hidden_0|decoder/conv_out)/kernel$"
"""Of two coordinates and of three colours: there is nothing to split."""
OPTIONS = dict(learning_rate=1e-3, ema=0.9)


def shares_by_rule(name, axis_sizes):
    """In how many parts the rule of a path asks to cut it."""
    spec = next(spec for pattern, spec in sharding.RULES if re.search(pattern, name))
    named = [axis for part in spec if part for axis in ((part,) if isinstance(part, str) else part)]
    return math.prod(axis_sizes[axis] for axis in named)


def shares(leaf):
    return leaf.size // math.prod(leaf.sharding.shard_shape(leaf.shape))


slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize("moments", [slow("float32"), slow("bfloat16"), "float8"])
@pytest.mark.parametrize("name", ["laq", "tokenizer", "vlm"])
def test_published_sizes_are_cut_as_often_as_their_rules_say(inits, name, moments):
    """Parameters, moments and averages; only exponents of moments in 8 bits, of 64 numbers each, may be whole."""
    init_fn, optimizer = inits[name]
    tx, _ = optimizers.make(10, **{**optimizer, "ema": 0.9, "moments": moments})
    shapes = jax.eval_shape(training.make_init(init_fn, tx), jax.random.key(0))
    for axes in LAYOUTS:
        mesh = sharding.make_mesh(*axes)
        cut = jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
            shapes, sharding.tree_shardings(mesh, shapes),
        )
        leaves = {sharding.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(cut) if leaf.shape}
        parts = {path.split("/")[0] for path in leaves}
        assert {"params", "opt_state", "ema"} <= parts
        for path, leaf in leaves.items():
            if not re.search(FEW, path) and "_exponent/" not in path:
                assert shares(leaf) == shares_by_rule(path, mesh.shape), (axes, path, leaf.sharding.spec)
        kept = sum(leaf.size // shares(leaf) * leaf.dtype.itemsize for leaf in leaves.values())
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
        assert kept < 1.06 * whole / (mesh.shape["fsdp"] * mesh.shape["tensor"]) or name == "tokenizer"
        assert kept < 1.06 * whole / mesh.shape["fsdp"]  # the tokenizer does not use `tensor`


@pytest.mark.parametrize(
    "name, axes, moments",
    [
        slow("vlm", (1, 2, 2, 2), "float8"),
        ("laq transformer nsvq", (2, 2, 2, 1), "bfloat16"),
        slow("tokenizer", (1, 4, 2, 1), "float32"),
    ],
)
def test_a_step_leaves_all_where_it_was_and_takes_the_old_state_for_it(name, axes, moments, programs, load_config):
    loss_fn, init_fn, batch = test_sharding.make_stage(name, programs, load_config)
    mesh, (tx, _) = sharding.make_mesh(*axes), optimizers.make(10, **OPTIONS, moments=moments)
    init = training.make_init(init_fn, tx)
    wanted = jax.tree.map(lambda leaf: leaf.sharding, training.abstract_state(init, mesh))
    with jax.set_mesh(mesh):
        first = training.init_sharded(init, mesh, seed=0)
        after, _ = training.make_train_step(loss_fn, tx)(first, sharding.global_batch(mesh, batch))
    assert any(shares(leaf) > 1 for leaf in jax.tree.leaves(after.opt_state))
    for state in (first, after):
        jax.tree.map_with_path(lambda path, *both: _same(sharding.path_name(path), *both), state, wanted)
    left = [sharding.path_name(path) for path, leaf in jax.tree.leaves_with_path(first) if not leaf.is_deleted()]
    assert not set(left) - {"variables/codebook/quantize/rows"}  # a step writes it and does not read it


def _same(name, leaf, where):
    assert leaf.sharding.is_equivalent_to(where, leaf.ndim), (name, leaf.sharding, where)


def test_no_device_makes_a_whole_leaf_at_first():
    """Of the program that makes a state: its results are parts, and what it needs on the way is no more."""
    trunk = dict(width=256, depth=4, num_heads=4, mlp_dim=512)
    model = vlm.LatentActionVLM(vocabs=dict(text=2048), heads=("text",), trunk=trunk)
    init = training.make_init(
        functools.partial(model.init, tokens=Tokens.of(jnp.ones((1, 2)), vocab.TEXT)), optimizers.make(10, 1e-3)[0]
    )
    mesh = sharding.make_mesh(1, 4, 2)
    abstract = training.abstract_state(init, mesh)
    placed = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    with jax.set_mesh(mesh):
        compiled = jax.jit(init, out_shardings=placed).lower(jax.random.key(0)).compile()
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract)]
    memory = compiled.memory_analysis()
    made = re.findall(r" = [fsu]\d+\[([\d,]+)\]", compiled.as_text())
    made = [4 * math.prod(map(int, dims.split(","))) for dims in made]
    assert max(made) <= max(sizes) / 8
    assert memory.output_size_in_bytes < 1.02 * sum(sizes) / 8
    assert memory.temp_size_in_bytes < max(sizes) / 8
