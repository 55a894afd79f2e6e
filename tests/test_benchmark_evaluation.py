"""The benchmark of closed-loop evaluation at toy size. Nothing here looks at speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*flags):
    command = [sys.executable, "benchmarks/evaluation.py", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_numbers_of_processes_take_turns(tmp_path):
    pytest.importorskip("pybullet", reason="PyBullet is not installed (extra [tabletop])")
    small = ("--episodes=4", "--batch=2", "--rounds=2", "--minutes=0.05", "--processes=1")
    ended = run(*small, f"--json={tmp_path}/b.json")
    assert ended.returncode == 0, ended.stderr
    races = json.loads((tmp_path / "b.json").read_text())["races"]
    assert set(races) == {"expert"} and set(races["expert"]["per_s"]) == {"0", "1"}
    assert "x 0 (" in ended.stdout and "cores busy with other work" in ended.stdout


def test_bad_flags_are_one_line():
    ended = run("--processes=two")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == "error: --processes=two: numbers, as in 1,4,16"
