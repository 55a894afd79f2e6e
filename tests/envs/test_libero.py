"""LIBERO behind our face, on a stand-in with the package's own names, signatures and habits."""

import ast
import importlib
import math
from pathlib import Path

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils import env_checker  # noqa: E402

from lapa_jax import envs  # noqa: E402
from lapa_jax.envs import libero as adapter  # noqa: E402
from lapa_jax.errors import UserError  # noqa: E402

STILL = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)


@pytest.fixture
def fake(stand_in, monkeypatch, tmp_path):
    """The stand-in on the path, with a LIBERO_CONFIG_PATH where nothing is yet."""
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "config"))
    with stand_in("libero"):
        yield tmp_path / "config"


@pytest.fixture
def make(fake):
    made = []

    def make_one(**kwargs):
        made.append(envs.make("libero", **{"image_size": 16, **kwargs}))
        return made[-1]

    yield make_one
    for env in made:
        env.close()
    simulators = importlib.import_module("libero.libero.envs").OffScreenRenderEnv.made
    assert not [s for s in simulators if hasattr(s, "env")]  # every one was closed


def same(one, other):
    return all(np.array_equal(one[k], other[k]) for k in one)


def test_gymnasium_accepts_it(make):
    env_checker.check_env(make(), skip_render_check=True)


def test_a_seed_is_an_episode(make):
    env = make()
    first, info = env.reset(seed=7)
    env.step(np.ones(7))
    env.reset(seed=8)
    np.random.seed(3)
    again, info_again = env.reset(seed=7)
    assert same(first, again) and info == info_again
    assert same(first, make().reset(seed=7)[0])


def test_consecutive_seeds_use_every_initial_state(make):
    env = make(families=("open_the_drawer",))
    states = [env.reset(seed=(1 << 40) + i)[1]["initial_state"] for i in range(5)]
    assert sorted(states) == [0, 1, 2, 3, 4]
    assert {tuple(env._simulator.block[:2]) for _ in [env.reset(seed=s) for s in (0, 5)]} == {
        tuple(env._benchmark.get_task_init_states(1)[0, :2])
    }


def test_objects_have_settled(make):
    """Ten steps with the gripper opening: the block has fallen, and no step of the episode is used up."""
    env = make(families=("pick_up_the_bowl",))
    observation, _ = env.reset(seed=0)
    assert env._simulator.block[2] == 0.0 and env.num_steps == 0
    assert env._simulator.actions == [[0.0] * 6 + [-1.0]] * 10
    np.testing.assert_allclose(observation["proprio"], [0, 0, 0.3, math.pi, 0, 0, 0.04, -0.04], atol=1e-6)
    assert observation["instruction"] == "pick up the bowl"


def test_images_are_turned_by_180_degrees(make):
    observation, _ = make().reset(seed=0)
    assert observation["image"].shape == observation["image_wrist"].shape == (16, 16, 3)
    assert observation["image"][0, 0].tolist() == [255, 0, 0]
    assert observation["image_wrist"][0, -1].tolist() == [0, 255, 0]


@pytest.mark.parametrize("gripper, close, open_", [("close_positive", 1.0, -1.0), ("open_01", 0.0, 1.0)])
def test_gripper_conventions(make, gripper, close, open_):
    env = make(gripper=gripper)
    env.reset(seed=0)
    beyond = close + 9 * (close - open_)
    for value, sent in ((close, 1.0), (open_, -1.0), ((close + open_) / 2, 0.0), (beyond, 1.0)):
        env.step(np.array([0, 0, 0, 0, 0, 0, value]))
        assert env._simulator.actions[-1][-1] == sent
    said = {"close_positive": "gripper -1 opens, +1 closes", "open_01": "gripper 1 opens, 0 closes"}[gripper]
    declared = env.action_space_description
    assert said in declared["convention"] and declared["gripper"] == gripper


def test_grasping_is_success(make):
    env = make(families=("push_the_plate",))
    env.reset(seed=1)
    for _ in range(60):
        way = (env._simulator.block[:2] - env._simulator.hand[:2]) / 0.05
        observation, reward, terminated, truncated, info = env.step(np.array([*way, 0, 0, 0, 0, 1]))
        if terminated:
            break
    assert terminated and not truncated and reward == 1.0 and info["success"] and info["family"] == "push_the_plate"


def test_episodes_are_as_long_as_the_suite_says(make):
    assert make(split="libero_10").max_steps == 520
    env = make(max_steps=2)
    env.reset(seed=0)
    assert [env.step(STILL)[3] for _ in range(2)] == [False, True]


def test_one_simulator_a_task(make):
    env = make(families=("pick_up_the_bowl",))
    env.reset(seed=0)
    one = env._simulator
    env.reset(seed=1)
    assert env._simulator is one and one.resets == 2
    assert one.bddl_file_name.endswith("libero/bddl_files/libero_spatial/pick_up_the_bowl.bddl")


def test_numpys_generator_is_left_alone(make):
    env = make()
    np.random.seed(5)
    expected = np.random.RandomState(5).uniform(size=3)
    env.reset(seed=0)
    np.testing.assert_array_equal(np.random.uniform(size=3), expected)


def test_the_import_asks_nothing(make, fake):
    """Without the config file the stand-in reads stdin as LIBERO does, which pytest forbids."""
    make()
    written = (fake / "config.yaml").read_text()
    assert '"assets"' in written
    (fake / "config.yaml").write_text(written + " ")
    make()
    assert (fake / "config.yaml").read_text() == written + " "  # a file that is there stays


def test_a_config_that_cannot_be_written(fake, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path / "file/config"))
    with pytest.raises(UserError, match="set LIBERO_CONFIG_PATH elsewhere"):
        envs.make("libero")


@pytest.mark.parametrize("action", [np.zeros(6), [np.inf] * 7, None])
def test_bad_actions(make, action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(UserError, match="give 7 finite numbers"):
        env.step(action)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"split": "libero_100"}, "unknown LIBERO suite 'libero_100': choose one of libero_spatial"),
        ({"families": ("fly",)}, r"unknown libero_spatial families \['fly'\]: choose some of pick_up_the_bowl"),
        ({"gripper": "up"}, "unknown gripper convention 'up'"),
        ({"image_size": 0}, "image_size=0"),
    ],
)
def test_bad_arguments(fake, kwargs, message):
    with pytest.raises(UserError, match=message):
        envs.make("libero", **kwargs)


def test_strict_torch(make, monkeypatch):
    monkeypatch.setenv("FAKE_TORCH_IS_STRICT", "1")
    with pytest.raises(UserError, match="install hf-libero, or torch<2.6"):
        make().reset(seed=0)


def test_axis_angle_is_robosuites():
    half = math.radians(35)
    axis = np.array([0.6, 0.0, 0.8])
    quaternion = np.array([*(axis * math.sin(half)), math.cos(half)])
    np.testing.assert_allclose(adapter.axis_angle(quaternion), axis * 2 * half)
    other_way = -axis * (2 * math.pi - 2 * half)  # the same orientation, not turned round first
    np.testing.assert_allclose(adapter.axis_angle(-quaternion), other_way)
    np.testing.assert_array_equal(adapter.axis_angle(np.array([0.0, 0.0, 0.0, 1.0])), np.zeros(3))


def signatures(file, *classes):
    """method -> names of its arguments, of some classes in a source file; the later ones win."""
    tree = ast.parse(Path(file).read_text())
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    methods = [node for name in classes for node in found[name].body if isinstance(node, ast.FunctionDef)]
    return {node.name: [a.arg for a in node.args.args] for node in methods}


def test_the_stand_in_is_like_the_package():
    """Sources are parsed only: importing them takes robosuite and torch."""
    spec = importlib.util.find_spec("libero")
    if spec is None:
        pytest.skip("hf-libero is not installed: nothing to compare with")
    real, ours = Path(spec.origin).parent / "libero", Path(__file__).parent / "fakes/libero/libero"
    for part, theirs, mine in (
        ("benchmark/__init__.py", ["Benchmark"], ["Benchmark"]),
        ("envs/env_wrapper.py", ["ControlEnv"], ["OffScreenRenderEnv"]),
    ):
        copy = ours / part if (ours / part).exists() else ours / "envs/__init__.py"
        expected = signatures(real / part, *theirs)
        for name, arguments in signatures(copy, *mine).items():
            if name not in ("__init__", "_observation"):
                assert expected[name] == arguments, name
    constructor = signatures(real / "envs/env_wrapper.py", "ControlEnv")["__init__"]
    assert {"bddl_file_name", "camera_heights", "camera_widths"} <= set(constructor)


def test_no_step_before_reset(make):
    with pytest.raises(UserError, match="no episode yet"):
        make().step(STILL)


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install hf-libero"):
        envs.make("libero")
