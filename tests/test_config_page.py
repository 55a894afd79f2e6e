"""docs/configs.md: its tables have the keys of the configs, all of them and no others."""

import re

import pages
import pytest

from lapa_jax import checkpoints

PAGE = pages.read("configs.md")
SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE))
COMMON = ("Keys of all programs", "Data of all stages")
CONFIGS = (pages.ROOT / "experiments" / "configs").glob("*.py")
PROGRAMS = sorted(path.stem for path in CONFIGS if path.stem != "common")


def keys(section):
    """What the first column of its tables names; `.b` after `x.a` is `x.b`."""
    found, prefix = set(), ""
    for cell in re.findall(r"(?m)^\| (`[^|]*)\|", SECTIONS[section].replace("\\|", " ")):
        for key in re.findall(r"`([^`]+)`", cell):
            prefix = prefix if key.startswith(".") else key.rpartition(".")[0]
            found.add(prefix + key if key.startswith(".") else key)
    return found


def matches(key, pattern):
    """Whether a key is named by one of the page, which may name a section or have `*` in it."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*") + r"(\..*)?", key)


@pytest.mark.parametrize("name", PROGRAMS)
def test_tables_and_configs_agree(name, load_config):
    there = {key for size in ("base", "tiny") for key in checkpoints.flatten(load_config(name, size).to_dict())}
    mine = keys(name)
    strange = [pattern for pattern in mine if not any(matches(key, pattern) for key in there)]
    assert not strange, f"docs/configs.md has {strange}, which {name} has not"
    common = set.union(*map(keys, COMMON))
    patterns = mine | common | {f"optimizer.{key}" for key in common} | set(re.findall("`([^`]+)`", SECTIONS[name]))
    missing = [key for key in there if not any(matches(key, pattern) for pattern in patterns)]
    assert not missing, f"docs/configs.md lacks {missing} of {name}"
