"""Pages of docs/ whose commands run as they stand there, in their order, with flags for small sizes behind them."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent

DRIVER = """
import json, runpy, sys

import grain  # it and absl have flags of their own, which stay
from absl import app, flags

app.define_help_flags()
for name, arguments in json.load(sys.stdin):
    print("===", name, flush=True)
    before, sys.argv = set(flags.FLAGS), arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"{' '.join(arguments)} ended with status {end.code}")
    for flag in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, flag)
"""
"""Programs one after the other in one process: importing jax takes longer than most of them."""


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def commands(text: str) -> list[list[str]]:
    """The arguments of each command of a page, without its interpreter."""
    blocks = re.findall(r"(?m)^ {4,}python (experiments/(?:.*\\\n)*.*)$", text)
    return [shlex.split(block.replace("\\\n", "")) for block in blocks]


def programs(text: str) -> list[str]:
    """The Python of a page."""
    return re.findall(r"(?s)```python\n(.*?)```", text)


def name_of(command: Sequence[str]) -> str:
    """The folder that a command fills; of one that fills none, its program."""
    found = [flag.partition("=")[2] for flag in command if flag.startswith("--workdir=")]
    return found[0] if found else pathlib.Path(command[0]).stem


def run(
    given: Sequence[Sequence[str]], folder: pathlib.Path, sizes: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Runs commands in a folder, which gets a link to `experiments`.

    Args:
        sizes: `name_of` a command -> flags that are added to it.

    Returns:
        What each printed, by its name, several of one name in order.
    """
    (folder / "experiments").symlink_to(ROOT / "experiments")
    names = [name_of(command) for command in given]
    calls = [(name, [*command, *sizes.get(name, ())]) for name, command in zip(names, given, strict=True)]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'experiments'}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(calls), cwd=folder, env=environment, capture_output=True,
        text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed: dict[str, list] = {}
    for part in done.stdout.split("=== ")[1:]:
        name, text = part.split("\n", 1)
        printed.setdefault(name, []).append(text)
    return printed
