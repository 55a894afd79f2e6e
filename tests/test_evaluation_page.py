"""docs/evaluation.md: its programs run, and its commands name programs, configs and keys that there are."""

import importlib

import pages
import pytest

from lapa_jax import checkpoints

PAGE = pages.read("evaluation.md")


@pytest.mark.parametrize("command", pages.commands(PAGE), ids=pages.name_of)
def test_commands_say_what_there_is(command, load_config):
    program, *flags = command
    assert (pages.ROOT / program).exists()
    given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    path, _, size = given.pop("config").partition(":")
    name = path.removeprefix("experiments/configs/").removesuffix(".py")
    assert program == f"experiments/{name}.py" and given.pop("workdir").startswith("runs/")
    importlib.import_module(f"configs.{name}")
    there = checkpoints.flatten(load_config(name, size).to_dict())
    assert not {key.removeprefix("config.") for key in given} - there.keys()


def test_its_python_runs(capsys):
    pytest.importorskip("pybullet", reason="PyBullet is not installed (extra [tabletop])")
    (program,) = pages.programs(PAGE)
    exec(compile(program, "docs/evaluation.md", "exec"), {})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.split()[-2:-1] == ["True"]]
    assert len(lines) >= 7
