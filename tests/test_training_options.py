"""All of docs/training.md at once in a program, stopped half-way and started again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import checkpoints, errors, sharding, trained

pytestmark = pytest.mark.slow

OPTIONS = {
    "param_dtype": "bfloat16", "frozen_dtype": "bfloat16", "optimizer.frozen": "^decoder/conv_in",
    "optimizer.moments": "float8", "optimizer.ema": 0.5, "model.width": 16, "model.norm_groups": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def train(run_program, tabletop_dataset):
    return lambda folder, **how: run_program(
        "train_tokenizer", folder, **{"data.directory": str(tabletop_dataset)}, **how
    )


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    train(folder, **OPTIONS, num_steps=2)
    train(folder, **OPTIONS)
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stored(folder):
    return checkpoints.ocp.load_checkpointables(checkpoints.resolve(folder), {"state": None})["state"]


def test_the_checkpoint_holds_what_the_options_say(run):
    state = stored(run)
    params, opt_state, ema = (checkpoints.flatten(state[name]) for name in ("params", "opt_state", "ema"))
    assert int(state["step"]) == 4 and all(leaf.dtype == jnp.bfloat16 for leaf in params.values())
    assert {leaf.dtype.name for leaf in opt_state.values() if leaf is not None} >= {"uint8", "int8", "float32"}
    frozen = params.keys() - ema.keys()
    assert frozen == {"decoder.conv_in.kernel", "decoder.conv_in.bias"}
    assert all(leaf.dtype == jnp.float32 for leaf in ema.values())
    assert not [name for name in opt_state if name.split(".")[1:3] == ["decoder", "conv_in"]]


def test_what_is_used_is_the_average(run):
    found = trained.load_tokenizer(run, sharding.make_mesh(devices=jax.devices()[:1])).variables["params"]
    state = stored(run)
    found, params, ema = (checkpoints.flatten(tree) for tree in (found, state["params"], state["ema"]))
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, ema.get(name, params[name]).astype(jnp.float32), err_msg=name)
    assert any(np.any(ema[name] != params[name].astype(jnp.float32)) for name in ema)


def test_it_goes_on_where_it_stopped_and_is_evaluated(run):
    assert json.loads((run / "summary.json").read_text())["psnr"] > 0
    steps = [row for row in rows(run) if row["split"] == "train"]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in steps)


def test_another_choice_is_another_run(run, train):
    with pytest.raises(errors.UserError, match="optimizer.ema: 0.5 there, 0.0 now"):
        train(run, **OPTIONS | {"optimizer.ema": 0.0})


def test_a_batch_in_parts(train, tmp_path):
    train(tmp_path / "parts", batch_size=16, accumulate=2, num_steps=2)
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path / "parts") if row["split"] == "train")
    with pytest.raises(errors.UserError, match="16 rows .frame. do not divide into accumulate=4 parts over 8"):
        train(tmp_path / "other", batch_size=16, accumulate=4)
