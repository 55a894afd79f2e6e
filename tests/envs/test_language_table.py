"""Language Table behind our face, on a stand-in with the package's own names, signatures and habits."""

import importlib
import sys

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils import env_checker  # noqa: E402

from lapa_jax import envs  # noqa: E402
from lapa_jax.envs import language_table as adapter  # noqa: E402
from lapa_jax.errors import UserError  # noqa: E402


@pytest.fixture
def fake(stand_in):
    """The stand-in's module `environments.language_table`, imported afresh."""
    with stand_in("language_table"):
        yield importlib.import_module("language_table.environments.language_table")


@pytest.fixture
def make(fake):
    made = []

    def make_one(**kwargs):
        made.append(envs.make("language_table", **kwargs))
        return made[-1]

    yield make_one
    for env in made:
        env.close()
    assert fake.Client.connected == 0


def episode(env, seed, length=4):
    """Observations of a few steps of a constant action."""
    seen = [env.reset(seed=seed)[0]]
    return seen + [env.step(np.array([0.02, -0.01]))[0] for _ in range(length)]


def same(one, other):
    return all(np.array_equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)


def test_gymnasium_accepts_it(make):
    env_checker.check_env(make(), skip_render_check=True)


@pytest.mark.parametrize("family", list(adapter.REWARDS))
def test_a_seed_is_an_episode(make, family):
    """Also after another episode, whose motors a reset would not clear, and whatever numpy has drawn."""
    env = make(families=(family,))
    first = episode(env, seed=1 << 40)
    episode(env, seed=3)
    for drawn in range(8):
        np.random.seed(drawn)
        assert same(first, episode(env, seed=1 << 40))
    assert not same(first, episode(env, seed=(1 << 40) + 1))


def test_numpys_generator_is_left_alone(make):
    env = make()
    np.random.seed(5)
    expected = np.random.RandomState(5).uniform(size=3)
    env.reset(seed=0)
    np.testing.assert_array_equal(np.random.uniform(size=3), expected)


def test_wordings_come_from_the_family(make):
    env = make(families=("separate", "blocktorelativelocation"))
    starts = {env.reset(seed=seed)[1]["family"]: env.reset(seed=seed)[0]["instruction"] for seed in range(20)}
    assert set(starts) == {"separate", "blocktorelativelocation"}
    assert starts["blocktorelativelocation"].startswith("block2relativelocation ")
    assert "moon" in starts["separate"]


def test_going_there_is_success(make, fake):
    env = make(families=("blocktoblock",))
    env.reset(seed=2)
    for _ in range(50):
        block = env._simulator._block
        observation, reward, terminated, truncated, info = env.step(block - env._simulator._target)
        assert np.abs(env._simulator.actions[-1]).max() <= np.float32(0.1)  # commands are clipped to the box
        if terminated:
            break
    assert terminated and not truncated and reward == 1.0
    assert info == {"family": "blocktoblock", "success": True, "instruction": observation["instruction"]}
    np.testing.assert_allclose(observation["proprio"], block, atol=0.03)


def test_the_last_step_is_the_last(make):
    env = make(max_steps=3)
    env.reset(seed=0)
    assert [env.step(np.zeros(2))[3] for _ in range(3)] == [False, False, True]


def test_the_camera_is_untouched_or_resized(make):
    own, small = make(), make(image_size=64)
    image = own.reset(seed=4)[0]["image"]
    np.testing.assert_array_equal(image, own._simulator._observation()["rgb"])
    resized = small.reset(seed=4)[0]["image"]
    assert resized.shape == (64, 64, 3) and resized.dtype == np.uint8
    np.testing.assert_allclose(resized.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=1.5)


def test_crowded_boards_are_dealt_again(make, fake):
    env = make()
    fake.LanguageTable.crowded = 3
    env.reset(seed=0)
    fake.LanguageTable.crowded = adapter.ATTEMPTS
    with pytest.raises(UserError, match="no board for .* in 10 tries: Exceeded max attempts"):
        env.reset(seed=0)


@pytest.mark.parametrize("action", [[0.1], [np.nan, 0.0], "left", [[0.0, 0.0]]])
def test_bad_actions(make, action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(UserError, match="give 2 finite numbers"):
        env.step(action)


def test_an_instruction_is_bytes():
    codes = np.zeros(512, np.int32)
    codes[: len("é ok".encode())] = list("é ok".encode())
    assert adapter.decode(codes) == "é ok" and adapter.decode(np.zeros(512, np.int32)) == ""


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"families": ("stack",)}, r"unknown language_table families \['stack'\]: choose some of blocktoblock"),
        ({"block_mode": "BLOCK_9"}, "unknown block mode 'BLOCK_9': choose one of BLOCK_4, BLOCK_8"),
        ({"max_steps": 0}, "max_steps=0: give positive numbers"),
    ],
)
def test_bad_arguments(fake, kwargs, message):
    with pytest.raises(UserError, match=message):
        envs.make("language_table", **kwargs)


def test_no_step_before_reset(make):
    with pytest.raises(UserError, match="no episode yet"):
        make().step(np.zeros(2))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "language_table", None)
    for name in [n for n in sys.modules if n.startswith("language_table.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match="clone github.com/google-research/language-table, put it on PYTHONPATH"):
        envs.make("language_table")
