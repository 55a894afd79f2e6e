"""The race against PyTorch, at toy size."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH = importlib.util.find_spec("torch") is not None


def run(*flags):
    command = [sys.executable, str(ROOT / "benchmarks" / "laq.py"), "--size=toy", "--batch=4", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(TORCH, reason="torch is here")
def test_without_torch_it_says_what_to_install():
    done = run()
    assert done.returncode == 2 and "pip install torch" in done.stderr


@pytest.mark.skipif(not TORCH, reason="needs torch, which this benchmark alone does")
def test_both_are_one_network_and_are_timed(tmp_path):
    done = run("--rounds=2", "--minutes=0.1", f"--json={tmp_path / 'found.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert max(found["same"]["eager"]) < 1e-4 and found["same"]["codes"] > 1
    assert all(len(found["races"][task]["pairs_per_s"]["ours"]) >= 1 for task in ("train", "label"))
