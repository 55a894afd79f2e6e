"""The race against PyTorch, at toy size."""

import functools
import json
import sys

import benchmark_runs
import jax
import jax.numpy as jnp
import pytest
from benchmark_runs import ROOT, TORCH

from lapa_jax.models import laq
from lapa_jax.planning import work

run = functools.partial(benchmark_runs.run, "laq", "--batch=4")


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
    assert all(len(found["races"][task]["per_s"]["ours"]) >= 1 for task in ("train", "label"))


@pytest.mark.slow  # benchmarks/vlm.py shares its code, and its test is quicker
def test_ours_alone_in_bfloat16_without_torch(tmp_path):
    flags = ["--alone", "--batches=2", "--rounds=2", "--minutes=0.01", "--peak_tflops=2", "--remat"]
    done = run(*flags, f"--json={tmp_path / 'found.json'}")
    assert done.returncode == 0, done.stderr
    speeds = json.loads((tmp_path / "found.json").read_text())["speeds"]
    assert [(one["task"], one["batch"]) for one in speeds] == [(t, b) for t in ("label", "train") for b in (2,)]
    assert all(one["used"]["mfu"] == pytest.approx(one["used"]["tflops"] / 2) for one in speeds)
    assert all(one["pairs_per_s"] > 0 for one in speeds)


def test_batches_that_are_no_numbers_are_named():
    done = run("--alone", "--batches=64,big")
    assert done.returncode == 2 and "--batches=64,big" in done.stderr


@pytest.mark.parametrize("size", ["toy", "small", "official"])
def test_the_flops_we_divide_by_are_those_of_the_matrix_products(size):
    """Dots and convolutions in the program that JAX writes, multiplied out, are what sizes.py counts by hand."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from laq_speed import ours, sizes
    finally:
        sys.path.pop(0)
    size = sizes.SIZES[size]
    model = ours.make_model(size)
    frames = jax.ShapeDtypeStruct((1, size.image_size, size.image_size, 3), jnp.float32)
    variables = jax.eval_shape(laq.init_fn(model, size.image_size), jax.random.key(0))

    def loss(params, others, frame, target):
        rngs = {"noise": jax.random.key(0)}
        out = model.apply({"params": params, **others}, frame, target, train=True, rngs=rngs)
        return jnp.mean(jnp.square(out.reconstruction - target))

    counted = work.of(ours.make_label(model), variables, frames, frames).total
    assert counted == pytest.approx(sizes.label_flops(size), rel=0.05)
    others = dict(variables)
    trained = work.of(jax.grad(loss), others.pop("params"), others, frames, frames)
    assert trained.total == pytest.approx(sizes.train_flops(size), rel=0.07)  # small parts of the toy
