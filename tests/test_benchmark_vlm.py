"""The benchmark of stage 2, at toy size."""

import functools
import json
import sys

import benchmark_runs
import jax
import jax.numpy as jnp
import pytest
from benchmark_runs import ROOT, TORCH

from lapa_jax import losses, vocab
from lapa_jax.models.token_stream import Tokens
from lapa_jax.planning import work

run = functools.partial(benchmark_runs.run, "vlm", "--rounds=2")


def found_by(path, *flags):
    done = run(*flags, f"--json={path}")
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


@pytest.mark.skipif(TORCH, reason="torch is here")
def test_without_torch_it_says_what_to_install():
    done = run("--parts=race")
    assert done.returncode == 2 and "pip install torch" in done.stderr


@pytest.mark.skipif(not TORCH, reason="needs torch, which this race alone does")
def test_both_are_one_network_and_are_timed(tmp_path):
    found = found_by(tmp_path / "found.json", "--parts=race", "--minutes=0.1")["race"]
    assert all(apart < 1e-5 for apart in found["same"].values())
    for task in ("train", "train_latents", "generate_1", "generate_16"):
        assert found[task]["per_s"].keys() == {"ours", "transformers"}


@pytest.mark.slow
def test_packing_and_the_image_tokenizer_without_torch(tmp_path):
    found = found_by(tmp_path / "found.json", "--parts=packing,images", "--minutes=0.02")
    packing = found["packing"]["toy"]
    assert packing["filled"]["packed 32"] > packing["filled"]["padded"]
    assert packing["rows"] == {"padded": 3, "packed 32": 2}  # in 64 places; the longest example takes 18
    assert all(speed > 0 for speeds in packing["speeds"]["per_s"].values() for speed in speeds)
    assert [(one["task"], one["batch"]) for one in found["images"]] == [("encode", 1), ("decode", 1)]


def test_ours_alone_in_bfloat16_without_torch(tmp_path):
    flags = ["--alone", "--batches=2", "--minutes=0.02", "--peak_tflops=2", "--remat=full", "--row=16"]
    speeds = found_by(tmp_path / "found.json", *flags)["alone"]["speeds"]
    wanted = [(task, batch) for task in ("train", "generate") for batch in (2,)]
    assert [(one["task"], one["batch"]) for one in speeds] == wanted
    trained = [one["used"] for one in speeds if one["task"] == "train"]
    assert all(used["mfu"] == pytest.approx(used["tflops"] / 2) for used in trained)


@pytest.mark.parametrize(
    ("flags", "named"), [(["--parts=races"], "--parts=races"), (["--alone", "--batches=1,big"], "--batches=1,big")]
)
def test_flags_that_make_no_sense_are_named(flags, named):
    done = run(*flags)
    assert done.returncode == 2 and named in done.stderr


@pytest.mark.parametrize(("size", "predicted"), [("toy", None), ("200m", None), ("200m", 4)])
def test_the_flops_we_divide_by_are_those_of_the_matrix_products(size, predicted):
    """Dots in the program that JAX writes, multiplied out, are what sizes.py counts by hand."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from vlm_speed import network, sizes
    finally:
        sys.path.pop(0)
    size = sizes.SIZES[size]
    model = network.make_model(size)
    params = jax.eval_shape(network.make_init(model, None), jax.random.key(0)).params
    rows = jax.ShapeDtypeStruct((1, size.row), jnp.int32)

    def loss(params, rows):
        hidden = model.apply({"params": params}, Tokens.of(rows, vocab.TEXT))
        logits = model.apply({"params": params}, hidden[:, -(predicted or size.row) :], "text", method="logits")
        return losses.token_cross_entropy(logits, rows[:, -(predicted or size.row) :])

    counted = work.of(jax.grad(loss), params, rows).total
    assert counted == pytest.approx(sizes.train_flops(size, predicted), rel=0.02)
