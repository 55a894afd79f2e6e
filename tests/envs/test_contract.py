"""Every environment keeps what the page asks for, and the check notices what does not."""

import importlib
import pathlib

import numpy as np
import pages
import pytest

from lapa_jax import envs
from lapa_jax.envs import contract
from lapa_jax.errors import UserError

ARGUMENTS = {"tabletop": {}, "metaworld": {"families": ("reach", "push")}, "my_dots": {}}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_environment_keeps_the_contract(name, needs):
    assert contract.problems(needs(name), **ARGUMENTS[name]) == []


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_episode_is_truncated(name, needs):
    env = envs.make(needs(name), max_steps=2, **ARGUMENTS[name])
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape)
    assert [env.step(still)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    env.close()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_family_can_be_had_alone(name, needs):
    module = needs(name)
    for family in envs.make(module).families:
        assert envs.make(module, families=(family,)).families == (family,)
    with pytest.raises(UserError, match="families"):
        envs.make(module, families=("juggle",))
    with pytest.raises(UserError, match="families"):
        envs.make(module, families=())


def unseeded(env):
    return {"reset": lambda self, seed=None, options=None: env.reset(self)}


def darker(env):
    def now(self, success):
        observation, info = env.now(self, success)
        return {**observation, "image": observation["image"] / 255}, info

    return {"now": now}


def endless(env):
    def step(self, action):
        observation, reward, _, truncated, info = env.step(self, action)
        return observation, reward, False, truncated, info

    return {"step": step}


def silent(env):
    return {"now": lambda self, success: (env.now(self, success)[0], {"family": self.family})}


def credulous(env):
    return {"step": lambda self, action: env.step(self, np.nan_to_num(action))}


def lost(env):
    """The goal that the expert is told is not the one that counts."""

    def reset(self, seed=None, options=None):
        observation, info = env.reset(self, seed=seed)
        self.goal = self.goal + 1000.0
        return observation, info

    return {"reset": reset}


def undeclared(env):
    return {"action_space_description": {"names": ["right"]}, "metadata": {}}


@pytest.mark.parametrize(
    "mistake, sentences",
    [
        (unseeded, ["gives another episode"]),
        (darker, ["does not contain", "image is float64"]),
        (endless, ["an episode ends, and is rewarded"]),
        (silent, ["no success of type bool", "no instruction of type str"]),
        (credulous, ["not finite is carried out"]),
        (lost, ["the expert succeeds in 0 of 3"]),
        (undeclared, ["no names for 2 numbers", "no render_fps"]),
    ],
)
def test_mistakes_are_told(mistake, sentences, my_dots, monkeypatch):
    module = importlib.import_module(my_dots)
    monkeypatch.setattr(module, "make", type("Wrong", (module.Dots,), mistake(module.Dots)))
    found = "\n".join(contract.problems(my_dots))
    assert all(sentence in found for sentence in sentences), found


def test_the_program_says_what_is_wrong(my_dots, monkeypatch, capsys):
    assert contract.main([my_dots]) == 0 and "nothing is wrong" in capsys.readouterr().out
    module = importlib.import_module(my_dots)
    monkeypatch.setattr(module, "make", type("Wrong", (module.Dots,), undeclared(module.Dots)))
    assert contract.main([my_dots]) == 1 and "render_fps" in capsys.readouterr().out
    assert contract.main(["nowhere"]) == 2 and "unknown environment 'nowhere'" in capsys.readouterr().err


def test_modules_that_hold_no_environment_are_named(my_dots, monkeypatch):
    with pytest.raises(UserError, match="unknown environment 'nowhere.at.all': choose one of .*metaworld"):
        envs.make("nowhere.at.all")
    with pytest.raises(UserError, match="json has no make"):
        envs.make("json")
    monkeypatch.delattr(importlib.import_module(my_dots), "Expert")
    with pytest.raises(UserError, match="'my_dots' has no expert"):
        envs.expert(my_dots)


def test_what_the_page_has_recorded_is_read_back(my_dots, tmp_path):
    import build
    import demonstrations

    from lapa_jax.data import rlds

    recipe = demonstrations.Recipe(3, 1, 1, expert_noise=0.5, environment=my_dots, name=my_dots)
    build.build(tmp_path, recipe, num_workers=0)
    episodes = rlds.open_episodes(tmp_path, "train", view="robot", rate=10)
    assert len(episodes) == 3 and set(episodes.instructions) <= {"go to the red square", "go to the blue square"}
    moved = np.diff(episodes["proprio"][0], axis=0)
    np.testing.assert_allclose(moved, episodes["action"][0][:-1], atol=1e-4)


def test_the_adapter_of_the_page_is_as_short_as_it_says_and_its_commands_are_known(load_config):
    page = pages.read("environments.md")
    adapter, expert = (len([line for line in text.splitlines() if line.strip()]) for text in pages.programs(page))
    assert adapter <= 36 and expert == 5  # with imports and colours; 30 from `class` on
    for _, *arguments in pages.commands(page):
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        path, _, size = given["config"].rpartition(":")
        config = load_config(pathlib.Path(path).stem, size)
        for key in given:
            *outer, last = key.split(".")[1:] or [None]
            assert last is None or last in (config[outer[0]] if outer else config), key
