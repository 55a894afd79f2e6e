"""The tabletop environment: reproducible, split as promised, pushed by contact, solvable."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pybullet")
gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils import env_checker  # noqa: E402

from lapa_jax import envs  # noqa: E402
from lapa_jax.envs.tabletop import language, tasks  # noqa: E402
from lapa_jax.envs.tabletop.expert import Expert  # noqa: E402
from lapa_jax.errors import UserError  # noqa: E402

RIGHT, UP = np.array([0.03, 0.0]), np.array([0.0, 0.03])


@pytest.fixture
def make():
    """Makes tabletops and closes them after the test."""
    made = []

    def make_one(**kwargs):
        made.append(envs.make("tabletop", **kwargs))
        return made[-1]

    yield make_one
    for env in made:
        env.close()


def rollout(env, seed, policy):
    """Runs `policy(env, rng)` for one episode; returns observations and the success."""
    rng = np.random.default_rng(seed)
    observations, done = [env.reset(seed=seed)[0]], False
    while not done:
        observation, _, success, truncated, _ = env.step(policy(env, rng))
        observations.append(observation)
        done = success or truncated
    return observations, success


def random_policy(env, rng):
    return rng.uniform(-0.03, 0.03, 2)


def dark_centre(image):
    """(column, row) of the middle of the effector's pixels."""
    rows, columns = np.nonzero(image.max(axis=-1) < 40)
    return np.array([columns.mean(), rows.mean()])


def test_light_import():
    code = (
        "import sys, lapa_jax.envs, lapa_jax.envs.tabletop.expert;"
        "assert not {'pybullet', 'gymnasium', 'jax'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_says_how_to_install(monkeypatch):
    for module in ("scene", "env"):
        monkeypatch.delitem(sys.modules, f"lapa_jax.envs.tabletop.{module}", raising=False)
        monkeypatch.delattr(f"lapa_jax.envs.tabletop.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[tabletop\]"):
        envs.make("tabletop")


def test_unknown_names():
    with pytest.raises(UserError, match="tabletop"):
        envs.make("tabeltop")
    with pytest.raises(UserError, match="heldout"):
        envs.make("tabletop", split="test")
    with pytest.raises(UserError, match="separate"):
        envs.make("tabletop", families=("juggle",))
    with pytest.raises(UserError, match="num_objects=1"):
        envs.make("tabletop", num_objects=1)


def test_gymnasium_contract(make):
    env_checker.check_env(make(), skip_render_check=True)


def test_seed_determines_episode_whatever_came_before(make):
    fresh, used = make(), make()
    rollout(used, 3, random_policy)
    first, _ = rollout(fresh, 7, random_policy)
    second, _ = rollout(used, 7, random_policy)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a["instruction"] == b["instruction"]
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["effector"], b["effector"])


def test_seeds_differ(make):
    env = make()
    images = {env.reset(seed=seed)[0]["image"].tobytes() for seed in range(10)}
    assert len(images) == 10


def test_environments_in_one_process_are_independent(make):
    one, other = make(), make()
    one.reset(seed=0)
    before = one.blocks
    rollout(other, 1, Expert().action)
    np.testing.assert_array_equal(one.blocks, before)


def test_split_tables_are_disjoint():
    video, labelled, heldout = map(language.split_named, ("video", "labelled", "heldout"))
    assert not set(labelled.colours) & set(heldout.colours)
    assert set(labelled.colours) | set(heldout.colours) == set(video.colours)
    for family in tasks.FAMILIES:
        assert len(video.wordings[family]) >= 6
        assert not set(labelled.wordings[family]) & set(heldout.wordings[family])
        assert set(heldout.wordings[family]) <= set(video.wordings[family])


@pytest.mark.parametrize(
    "split,absent",
    [("labelled", language.HELDOUT_COLOURS), ("heldout", language.LABELLED_COLOURS)],
)
def test_instructions_name_only_their_split(make, split, absent):
    env = make(split=split)
    words = set()
    for seed in range(80):
        words |= set(env.reset(seed=seed)[0]["instruction"].split())
    assert not words & set(absent)
    assert set(language.split_named(split).colours) <= words


def test_no_episode_starts_done(make):
    env = make()
    families = set()
    for seed in range(60):
        families.add(env.reset(seed=seed)[1]["family"])
        assert tasks.shortfall(env.task, env.effector, env.blocks) > 0.05
    assert families == set(tasks.FAMILIES)


@pytest.mark.parametrize("num_objects", [2, 3, 6])
def test_number_of_objects(make, num_objects):
    env = make(num_objects=num_objects)
    env.reset(seed=0)
    assert env.blocks.shape == (num_objects, 2)


@pytest.mark.parametrize("family", tasks.FAMILIES)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_expert_succeeds(make, family, noise):
    env, expert = make(families=(family,)), Expert(noise)
    outcomes = [rollout(env, seed, expert.action)[1] for seed in range(15)]
    assert np.mean(outcomes) >= 0.9


@pytest.mark.parametrize("family", tasks.FAMILIES)
def test_random_policy_rarely_succeeds(make, family):
    env = make(families=(family,))
    outcomes = [rollout(env, seed, random_policy)[1] for seed in range(15)]
    assert np.mean(outcomes) < 0.35


def test_success_ends_the_episode_with_reward(make):
    env = make(families=("point",))
    env.reset(seed=0)
    success = False
    while not success:
        _, reward, success, truncated, info = env.step(Expert().action(env, np.random))
        assert not truncated and reward == float(success) and info["success"] == success


def test_truncates_at_max_steps(make):
    env = make(max_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_blocks_rest_unless_pushed(make):
    env = make()
    for seed in range(5):
        env.reset(seed=seed)
        before = env.blocks
        for _ in range(20):
            env.step(np.zeros(2))
        np.testing.assert_allclose(env.blocks, before, atol=1e-4)


def test_pushing_moves_only_what_is_touched_and_keeps_it_in_the_tray(make):
    env = make(families=("push_to_place",), num_objects=2, max_steps=1000)
    env.reset(seed=0)
    target, start = env.task.target, env.blocks
    for _ in range(200):
        before = env.blocks
        env.step(np.clip(env.blocks[target] - env.effector, -0.03, 0.03))
        moved = np.linalg.norm(env.blocks - before, axis=1) > 1e-4
        near = np.linalg.norm(env.blocks - env.effector, axis=1) < 0.08
        touching = np.linalg.norm(env.blocks[0] - env.blocks[1]) < 0.1
        assert (near | ~moved).all() or touching
        assert np.abs(env.blocks).max() < 0.2
    assert np.linalg.norm(env.blocks[target] - start[target]) > 0.05


@pytest.mark.parametrize("action,pixels", [(RIGHT, [3.43, 0.0]), (UP, [0.0, -3.43])])
def test_image_directions_and_scale(make, action, pixels):
    env = make(families=("point",), num_objects=1)
    for seed in range(100):  # a start with free room on the way
        start = env.reset(seed=seed)[0]
        path = env.effector + np.outer(np.arange(4), action)
        if np.abs(path).max() < 0.22 and np.linalg.norm(path - env.blocks, axis=1).min() > 0.08:
            break
    for _ in range(3):
        end = env.step(action)[0]
    np.testing.assert_allclose(end["effector"] - start["effector"], 3 * action, atol=1e-3)
    shift = dark_centre(end["image"]) - dark_centre(start["image"])
    np.testing.assert_allclose(shift, 3 * np.array(pixels), atol=0.8)


def test_actions_are_clipped_to_the_box_and_the_workspace(make):
    env = make(families=("point",), max_steps=1000)
    start = env.reset(seed=0)[0]["effector"]
    moved = env.step(np.array([1.0, 1.0]))[0]["effector"] - start
    assert np.abs(moved).max() <= 0.0301
    for _ in range(30):
        env.step(np.array([1.0, 1.0]))
    assert env.effector.max() <= tasks.EFFECTOR_LIMIT + 0.005


@pytest.mark.parametrize("action", [[0.0], [0.0, 0.0, 0.0], [np.nan, 0.0], [0.0, np.inf], "left"])
def test_bad_actions(make, action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(UserError, match="action"):
        env.step(action)


def test_step_before_reset(make):
    with pytest.raises(UserError, match="reset"):
        make().step(np.zeros(2))


def test_close_twice(make):
    env = make()
    env.close()
    env.close()
