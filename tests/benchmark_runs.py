"""Benchmarks as a person runs them, at toy size."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = importlib.util.find_spec("torch") is not None


def run(program, *flags):
    """`benchmarks/PROGRAM.py --size=toy` with these flags, to its end."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{program}.py"), "--size=toy", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
