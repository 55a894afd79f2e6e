"""Checkpoints: found again on any mesh, refused where they do not fit, whole or not there."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lapa_jax import checkpoints, errors, sharding, training

TX = optax.adam(1e-3)
CONFIG = {"seed": 0, "num_steps": 10, "model": {"width": 16}, "mesh": {"fsdp": 8}}


def make_init(width=16, tx=TX):
    def init_fn(key):
        kernel = jax.random.normal(key, (2, 8, width))
        layers = {"attention": {"wq": {"kernel": kernel}}, "norm": {"scale": jnp.ones(width)}}
        return {"params": {"layers": layers}, "batch_stats": {"count": jnp.full((), 5.0)}}

    return training.make_init(init_fn, tx)


class Position:
    """A stream that has nothing but a position."""

    def __init__(self, value=0):
        self.value = value

    def get_state(self):
        return {"position": self.value, "name": "x"}

    def set_state(self, state):
        self.value = state["position"]


def state_on(mesh, step=2):
    with jax.set_mesh(mesh):
        state = training.init_sharded(make_init(), mesh, seed=1)
        ones = jax.tree.map(jnp.ones_like, state.params)
        updates, opt_state = TX.update(ones, state.opt_state)
    return state.replace(step=jnp.full_like(state.step, step), opt_state=opt_state)


@pytest.fixture(scope="module")
def state():
    return state_on(sharding.make_mesh(1, 8, 1))


@pytest.fixture
def run(tmp_path, state):
    """Folder of a run with a checkpoint of step 2."""
    save(tmp_path, 2, state)
    return tmp_path


def save(folder, step, state):
    with checkpoints.Checkpoints(folder, CONFIG, {"tokenizer": "abc", "mean": [0.5]}) as saved:
        saved.save(step, state, Position(7).get_state())
        saved.wait()


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("axes", [(1, 8, 1), (2, 2, 2), (8, 1, 1)])
def test_a_state_comes_back_on_another_mesh(run, state, axes):
    mesh, stream = sharding.make_mesh(*axes), Position()
    abstract = training.abstract_state(make_init(), mesh)
    with checkpoints.Checkpoints(run, CONFIG) as saved:
        found = saved.restore_or(abstract, lambda: pytest.fail("not a new run"), stream)
    equal(found, state)
    assert stream.value == 7
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_a_new_run_is_initialised(tmp_path):
    with checkpoints.Checkpoints(tmp_path, CONFIG) as saved:
        assert saved.latest_step() is None
        assert saved.restore_or(None, lambda: "fresh", None) == "fresh"


def test_params_load_without_the_optimizer(run, state):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    found = checkpoints.load_state(run, training.abstract_state(make_init(tx=None), mesh))
    equal((found.params, found.variables, found.step), (state.params, state.variables, state.step))
    assert found.opt_state is None
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(found))


def test_params_load_in_another_precision(run, state):
    mesh = sharding.make_mesh()
    abstract = training.abstract_state(make_init(), mesh)
    half = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), abstract.params
    )
    found = checkpoints.load_state(run, abstract.replace(params=half))
    equal(found.params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params))


def test_config_assets_and_position_are_in_the_checkpoint(run):
    assert checkpoints.load_json(run, "config") == CONFIG
    assert checkpoints.load_json(run, "assets") == {"tokenizer": "abc", "mean": [0.5]}
    assert checkpoints.load_json(run, "loader") == {"position": 7, "name": "x"}


def test_assets_are_optional(tmp_path, state):
    with checkpoints.Checkpoints(tmp_path, CONFIG) as saved:
        saved.save(2, state, Position().get_state())
        saved.wait()
    assert checkpoints.load_json(tmp_path, "config") == CONFIG


def test_another_model_is_refused_by_the_name_of_a_leaf(run):
    other = training.abstract_state(make_init(width=24), sharding.make_mesh())
    message = r"layers/attention/wq/kernel is \(2, 8, 16\) there and \(2, 8, 24\)"
    with pytest.raises(errors.UserError, match=message):
        checkpoints.load_state(run, other)
    with checkpoints.Checkpoints(run, CONFIG) as saved, pytest.raises(errors.UserError, match=message):
        saved.restore_or(other, lambda: None, Position())
    fewer = other.replace(params={"layers": {"norm": other.params["layers"]["norm"]}})
    with pytest.raises(errors.UserError, match="and absent in this config"):
        checkpoints.load_state(run, fewer)


def test_only_recent_checkpoints_stay(tmp_path, state):
    for step in (2, 4, 6):
        save(tmp_path, step, state)
    steps = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert steps == ["4", "6"] and checkpoints.resolve(tmp_path).name == "6"


def test_multiples_of_keep_every_stay_for_good(tmp_path, state):
    with checkpoints.Checkpoints(tmp_path, CONFIG, every=2, keep_last=2, keep_every=4) as saved:
        for step in (2, 4, 6, 7, 8, 10):  # 7: by SIGTERM
            saved.save(step, state, Position().get_state())
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert steps == [4, 8, 10]


@pytest.mark.parametrize(
    "wrong", [dict(every=0), dict(keep_last=0), dict(keep_every=0), dict(every=2, keep_every=3)]
)
def test_a_policy_that_keeps_nothing_is_refused(tmp_path, wrong):
    with pytest.raises(errors.UserError, match="checkpoint.*keep_every"):
        checkpoints.Checkpoints(tmp_path, CONFIG, **wrong)
    assert not list(tmp_path.iterdir())


def test_params_load_as_numpy_without_a_mesh(run, state):
    found = checkpoints.load_numpy(run)
    equal(found, state.params)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
    with pytest.raises(errors.UserError, match="no checkpoint under"):
        checkpoints.load_numpy(run / "absent")


def test_averages_load_as_numpy_in_the_dtype_of_the_parameters(tmp_path, state):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params)
    mean = {"layers": {"attention": jax.tree.map(lambda x: x + 1, state.params["layers"]["attention"])}}
    state = state.replace(params=half, ema=mean)
    save(tmp_path, 2, state)
    equal(checkpoints.load_numpy(tmp_path, averaged=False), half)
    equal(checkpoints.load_numpy(tmp_path), state.eval_params())
    assert checkpoints.load_numpy(tmp_path)["layers"]["norm"]["scale"].dtype == jnp.bfloat16


def test_one_device_without_a_mesh_reads_what_eight_wrote(run, state):
    """In a process of its own, that has one device."""
    script = """
import sys, jax, numpy as np
from lapa_jax import checkpoints
np.savez(sys.argv[2], kernel=checkpoints.load_numpy(sys.argv[1])["layers"]["attention"]["wq"]["kernel"])
assert jax.device_count() == 1
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    subprocess.run([sys.executable, "-c", script, str(run), str(run / "k.npz")], check=True, env=environment)
    wanted = state.params["layers"]["attention"]["wq"]["kernel"]
    np.testing.assert_array_equal(np.load(run / "k.npz")["kernel"], wanted)


def test_resolve_takes_a_run_its_checkpoints_or_one_of_them(run):
    folder = run / "checkpoints" / "2"
    assert [checkpoints.resolve(p) for p in (run, run / "checkpoints", folder)] == [folder] * 3
    for nothing in (run / "absent", run / "checkpoints" / "2" / "state"):
        with pytest.raises(errors.UserError, match="no checkpoint under"):
            checkpoints.resolve(nothing)


def test_what_a_killed_save_leaves_is_never_the_latest(run, state):
    """Orbax writes beside the final name and renames at the end."""
    whole = run / "checkpoints" / "2"
    shutil.copytree(whole, run / "checkpoints" / "4.orbax-checkpoint-tmp")
    assert checkpoints.resolve(run) == whole
    with checkpoints.Checkpoints(run, CONFIG, {"a": 1}) as saved:
        assert saved.latest_step() == 2
        saved.save(4, state, Position(8).get_state())
        saved.wait()
        assert saved.latest_step() == 4
    assert checkpoints.load_json(run, "loader")["position"] == 8


def test_a_save_that_fails_leaves_the_last_one(run, state):
    bad = state.replace(params={"layers": object()})
    with pytest.raises(Exception), checkpoints.Checkpoints(run, CONFIG) as saved:  # noqa: B017 Orbax's own
        saved.save(4, bad, Position(8).get_state())
        saved.wait()
    assert checkpoints.resolve(run).name == "2"
    with checkpoints.Checkpoints(run, CONFIG) as saved:
        assert saved.latest_step() == 2


def test_a_folder_of_another_config_is_refused_and_left_alone(run):
    before = (run / "config.json").read_text()
    other = {**CONFIG, "model": {"width": 32}, "new": 1}
    with pytest.raises(errors.UserError, match="model.width: 16 there, 32 now.*new: None there, 1 now"):
        checkpoints.Checkpoints(run, other)
    assert (run / "config.json").read_text() == before


def test_a_longer_run_on_another_mesh_is_the_same_run(run):
    longer = {**CONFIG, "num_steps": 20, "mesh": {"fsdp": 4}}
    checkpoints.claim(run, longer)
    assert json.loads((run / "config.json").read_text()) == longer
    with pytest.raises(errors.UserError, match="seed: 0 there, 1 now"):
        checkpoints.claim(run, {**longer, "seed": 1})


def test_a_folder_that_another_process_does_not_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.hosts, "number", lambda: 1)
    with pytest.raises(errors.UserError, match="process 1 does not see .*config.json, which process 0 wrote"):
        checkpoints.claim(tmp_path, CONFIG)


def test_merge_takes_the_loaded_and_the_fresh():
    loaded = {"trunk": {"kernel": 1}, "head": {"kernel": 2}}
    fresh = {"trunk": {"kernel": 10}, "head": {"kernel": 20}, "action_head": {"kernel": 30}}
    merged = checkpoints.merge(loaded, fresh, new="action_head|^head")
    assert merged == {"trunk": {"kernel": 1}, "head": {"kernel": 20}, "action_head": {"kernel": 30}}
    assert checkpoints.merge(fresh, fresh) == fresh


def test_merge_is_strict_both_ways():
    small, large = {"trunk": 1}, {"trunk": 1, "head": 2}
    with pytest.raises(errors.UserError, match=r"missing \['head'\]"):
        checkpoints.merge(small, large)
    with pytest.raises(errors.UserError, match=r"not in the model \['head'\]"):
        checkpoints.merge(large, small)
