"""slow.txt: tests that only `make test-slow` runs."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent


def lines():
    """Names of tests, each with its file, with parameters or without."""
    return {line for line in (TESTS / "slow.txt").read_text().splitlines() if not line.startswith("#")}


def names(item):
    """How a line may name a collected test."""
    name = f"{item.path.relative_to(TESTS).as_posix()}::{item.name}"
    return {name, name.partition("[")[0]}
