"""Memory that stage 2's 7B takes, as benchmarks/vlm_memory.py finds it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lapa_jax import sharding

ROOT = Path(__file__).resolve().parent.parent
LIBTPU = importlib.util.find_spec("libtpu") is not None
TRUNK = 6_807_687_168
"""Numbers of the 7B with its tables and heads; see tests/test_base_shapes.py."""
THIN = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
"""Numbers of thin matrices of rank 16 beside all seven kernels of 32 layers."""
LATENTS = 2 * 8 * 4096


@pytest.fixture(scope="module")
def parts():
    """The modules that the program is made of."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from step_memory import analysis, cases, program
    finally:
        sys.path.pop(0)
    return analysis, cases, program


def run(*flags, **environment):
    command = [sys.executable, str(ROOT / "benchmarks" / "vlm_memory.py"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600)


@pytest.fixture(scope="module")
def made(parts, programs):
    """name -> the step of a case at 7B, on shapes alone; `programs` has imported the experiment."""
    _, cases, program = parts
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    return lambda name: program.make(cases.CASES[name], "7b", mesh)


def bytes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "name, params, moments",
    [
        ("full, float32 Adam, 1 row", 4 * TRUNK, 8 * TRUNK),
        ("full, float8 moments, 8 rows", 2 * TRUNK, (2 + 2 / 64) * TRUNK),
        ("LoRA, 8 rows", 2 * (TRUNK - LATENTS) + 4 * (THIN + LATENTS), 8 * (THIN + LATENTS)),
    ],
)
def test_a_state_has_the_bytes_that_its_config_says(name, params, moments, made):
    state = made(name).state
    assert bytes_of(state.params) == params
    assert moments <= bytes_of(state.opt_state) < 1.01 * moments
    assert bytes_of(state.variables) > 4 * 146e6  # the frozen image tokenizer


def test_rows_are_those_of_training(made):
    """Packed, with as many examples as go into a row."""
    alone, packed = made("LoRA, 8 rows").batch, made("LoRA, 1 packed row").batch
    assert {name: leaf.shape for name, leaf in alone.items()} == {
        **dict.fromkeys(("tokens", "kinds", "targets", "target_kinds", "segments", "loss_mask"), (8, 384)),
        "image": (8, 1, 256),
    }
    assert packed["tokens"].shape == (1, 2048) and packed["image"].shape == (1, 7, 256)


def test_every_case_is_of_known_keys_and_promises_a_known_card(parts):
    _, cases, program = parts
    for name, case in cases.CASES.items():
        assert case.card in (None, *cases.CARDS), name
        config = program.config_of(case, "7b")
        assert config.model.size == "7b" and config.batch_size == case.changes["batch_size"], name


def test_a_reserve_is_left(parts):
    _, cases, _ = parts
    assert cases.fits(76 * 10**9, 80) and not cases.fits(76 * 10**9 + 1, 80) and not cases.fits(23 * 10**9, 24)


def test_the_program_at_toy_size(tmp_path):
    """The state is updated in place, and a table and a file say the same."""
    file = tmp_path / "found.json"
    done = run("--size=debug", "--platform=cpu", "--only=LoRA, 8 rows", f"--json={file}",
               JAX_DISABLE_MOST_OPTIMIZATIONS="1", JAX_PLATFORMS="cpu")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["size"] == "debug" and found["cases"].keys() == {"LoRA, 8 rows"}
    one = found["cases"]["LoRA, 8 rows"]
    assert one["arguments"] == pytest.approx(one["state"], rel=0.001)
    assert 0 < one["outputs"] < 0.001 * one["state"] and one["temporaries"] > 0
    assert one["peak"] == sum(one[key] for key in ("arguments", "temporaries", "outputs", "program"))
    assert f"| {one['peak'] / 1e9:.2f} | yes | yes |" in done.stdout


def test_mistakes_are_named():
    done = run("--only=nothing", "--platform=cpu")
    assert done.returncode == 2 and "--only='nothing'" in done.stderr and "LoRA, 8 rows" in done.stderr


@pytest.mark.skipif(LIBTPU, reason="libtpu is here")
def test_without_a_compiler_it_says_what_to_install():
    done = run("--only=LoRA, 8 rows", JAX_PLATFORMS="cpu")
    assert done.returncode == 2 and "pip install libtpu" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not LIBTPU, reason="needs the compiler for TPUs: pip install libtpu")
@pytest.mark.parametrize("name", ["full, float8 moments, 8 rows", "LoRA, 8 rows"])
def test_the_7b_fits_the_card_that_is_promised(name, parts, tmp_path):
    file = tmp_path / "found.json"
    done = run(f"--only=^{name}$", f"--json={file}")
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())["cases"][name]
    assert not found["refused"] and parts[1].fits(found["peak"], found["card"])
