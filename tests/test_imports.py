"""Imports point one way, and each library comes in by one door."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("lapa_jax", "experiments", "data", "integrations")
FILES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
ARRAYS = ("jax", "flax", "optax", "orbax")
HEAVY = ("tensorflow", "torch")


def imported(source: str) -> list[tuple[int, str]]:
    """(line, full dotted name) of every import, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def inside(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def ours(name: str, file: str) -> bool:
    """Whether `name` is of this project and not in the file's own list of friends."""
    friends = {
        "lapa_jax/models/": ("models", "sharding", "vocab", "errors"),
        "lapa_jax/data/": ("data", "vocab", "errors"),
        "lapa_jax/envs/": ("envs", "errors"),
        "lapa_jax/device_order.py": ("errors",),
        "lapa_jax/sharding.py": ("device_order", "errors"),
        "lapa_jax/losses.py": ("vocab",),
        "lapa_jax/metrics.py": ("errors",),
        "lapa_jax/selection.py": ("errors",),
        "lapa_jax/rounding.py": (),
        "lapa_jax/averages.py": (),
        "lapa_jax/moments.py": ("rounding",),
        "lapa_jax/stacks.py": (),
        "lapa_jax/cpu.py": (),
        "lapa_jax/hosts.py": ("errors",),
        "lapa_jax/endings.py": ("errors", "hosts"),
        "lapa_jax/chunking.py": ("errors",),
        "lapa_jax/actions/": ("actions", "data", "errors", "generate", "losses", "models", "trained", "vocab"),
        "lapa_jax/adamw.py": ("moments", "rounding", "sharding", "stacks"),
        "lapa_jax/optimizers.py": ("adamw", "errors", "moments", "selection"),
        "lapa_jax/accumulation.py": ("errors", "sharding"),
        "lapa_jax/planning/": ("errors", "models", "planning"),
        "lapa_jax/tracing.py": ("errors",),
        "lapa_jax/speed.py": ("tracing",),
        "lapa_jax/model_flops.py": ("data", "errors", "planning"),
        "lapa_jax/training.py": (
            "accumulation", "adamw", "averages", "errors", "optimizers", "selection", "sharding", "speed",
        ),
        "lapa_jax/checkpoints.py": ("endings", "errors", "hosts", "selection", "sharding", "training"),
        "lapa_jax/serving/page/": ("serving", "chunking", "data", "envs", "errors"),
        "lapa_jax/serving/imagination.py": ("data", "errors", "latent_rollout", "models", "sharding", "trained"),
        "lapa_jax/serving/": ("serving", "errors", "__version__"),
        "lapa_jax/evaluation/closed_loop/": ("envs", "errors", "evaluation.closed_loop", "evaluation.films"),
        "lapa_jax/evaluation/films.py": ("errors", "evaluation.gifs"),
        "lapa_jax/convert/": ("convert", "checkpoints", "errors", "models", "training", "vocab"),
    }
    for place, allowed in friends.items():
        if file.startswith(place):
            return inside(name, "lapa_jax") and not inside(name, *(f"lapa_jax.{a}" for a in allowed))
    return False


def reason(name: str, file: str) -> str | None:
    """Why `file` may not import `name`; None where it may."""
    if inside(name, *HEAVY):
        return "TensorFlow and PyTorch stay out at run time"
    if inside(name, "orbax") and file != "lapa_jax/checkpoints.py":
        return "Orbax has one door, lapa_jax/checkpoints.py"
    if inside(name, "tensorflow_datasets") and not (
        file == "lapa_jax/data/stored/writing.py" or file.startswith("data/")
    ):
        return "TFDS has one door, lapa_jax/data/stored/writing.py (and the dataset builders in data/)"
    workers = ("lapa_jax/data/", "lapa_jax/envs/", "lapa_jax/evaluation/closed_loop/")
    if file.startswith(workers) and inside(name, *ARRAYS):
        return "worker processes must not load jax"
    if file.startswith("data/") and inside(name, *ARRAYS, "lapa_jax.models", "lapa_jax.training"):
        return "dataset builders do without jax"
    if file.startswith("lapa_jax/") and inside(name, "experiments", "configs", "launch", "data"):
        return "the library does not know its experiments"
    if file.startswith("lapa_jax/evaluation/") and inside(name, "lapa_jax.checkpoints"):
        return "evaluation gets its states handed in"
    if inside(name, "lapa_jax.convert") and file.startswith("lapa_jax/") and "/convert/" not in file:
        return "what is converted is handed in"
    if ours(name, file):
        return "the arrow between rooms points the other way"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    file = path.relative_to(ROOT).as_posix()
    wrong = [
        f"{file}:{line} imports {name}: {why}"
        for line, name in imported(path.read_text())
        if (why := reason(name, file))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "file, source",
    [
        ("lapa_jax/models/laq.py", "from lapa_jax import training"),
        ("lapa_jax/models/laq.py", "import lapa_jax.data.loader"),
        ("lapa_jax/data/loader.py", "from lapa_jax import sharding"),
        ("lapa_jax/data/loader.py", "def f():\n    import jax.numpy"),
        ("lapa_jax/data/loader.py", "import tensorflow_datasets as tfds"),
        ("lapa_jax/envs/tabletop/env.py", "from jax import numpy"),
        ("lapa_jax/envs/tabletop/env.py", "from lapa_jax.data import prompts"),
        ("lapa_jax/evaluation/closed_loop/slots.py", "import jax"),
        ("lapa_jax/evaluation/closed_loop/slots.py", "from lapa_jax import training"),
        ("lapa_jax/training.py", "from lapa_jax.models import laq"),
        ("lapa_jax/training.py", "from orbax import checkpoint"),
        ("lapa_jax/models/laq.py", "from lapa_jax.convert import laq_names"),
        ("lapa_jax/evaluation/report.py", "from lapa_jax.convert import torch_zip"),
        ("lapa_jax/convert/official_laq.py", "from lapa_jax.data import loader"),
        ("lapa_jax/policy.py", "import launch"),
        ("lapa_jax/serving/calls.py", "from lapa_jax import policy"),
        ("experiments/train_laq.py", "import tensorflow as tf"),
        ("data/simulated/build.py", "from torch import nn"),
    ],
)
def test_a_wrong_import_is_noticed(file, source):
    assert any(reason(name, file) for _, name in imported(source))


def test_tensorflow_and_torch_are_never_loaded():
    """Neither directly nor by a library that we load."""
    script = f"""
import importlib, pkgutil, sys
import lapa_jax
for module in pkgutil.walk_packages(lapa_jax.__path__, "lapa_jax."):
    importlib.import_module(module.name)
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert "lapa_jax.training" in sys.modules and not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_simulators_do_without_jax():
    """Dataset builders start one simulator a process."""
    script = """
import sys
import lapa_jax.data.transforms, lapa_jax.envs.tabletop.expert
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
