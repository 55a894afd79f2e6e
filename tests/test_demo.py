"""The demo's command lines: every flag is one that its program takes, in every environment."""

import pathlib

import build
import demo_stages
import demo_worlds
import pytest
from absl import flags

ROOT = pathlib.Path(demo_stages.__file__).resolve().parent.parent
CASES = [(env, size) for env, world in demo_worlds.WORLDS.items() for size in world.episodes]


@pytest.mark.parametrize("env, size", CASES)
def test_every_flag_is_known(env, size, load_config):
    lines = demo_stages.commands(pathlib.Path("runs"), size, 0, "tokens", env)
    assert list(lines)[0] == "dataset" and list(lines)[-1] == "evaluation"
    for program, *arguments in lines.values():
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        assert (ROOT / program).is_file()
        if program.startswith("data/"):
            assert all(name in flags.FLAGS for name in given), build.__file__
            continue
        path, _, chosen = given.pop("config").rpartition(":")
        assert chosen == size and given.pop("workdir")
        config = load_config(pathlib.Path(path).stem, size)
        for key in given:
            assert key.removeprefix("config.") in dict(config_leaves(config)), f"{program}: {key}"


def test_worlds_differ_where_they_say(load_config):
    worlds = ("tabletop", "metaworld")
    tabletop, metaworld = (demo_stages.commands(pathlib.Path("r"), "demo", 0, "stem", env) for env in worlds)
    assert "--env=metaworld" in metaworld["dataset"] and "--config.env=metaworld" in metaworld["evaluation"]
    assert load_config("evaluate").env == "tabletop" and "config.env" not in " ".join(tabletop["evaluation"])
    assert tabletop["vlm"] == metaworld["vlm"] and tabletop["latents"] == metaworld["latents"]
    assert set(metaworld["laq"]) - set(tabletop["laq"]) == {"--config.data.gap=0.2", "--config.model.code_length=2"}


def config_leaves(config, prefix=""):
    for key, value in config.items():
        yield f"{prefix}{key}", value
        if hasattr(value, "items"):
            yield from config_leaves(value, f"{prefix}{key}.")
