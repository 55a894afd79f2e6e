"""experiments/plan.py on toy sizes, for fake CPU devices and by hand; with libtpu also for TPUs (slow)."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lapa_jax import errors, sharding
from lapa_jax.planning.memory import Memory, of_arguments

ROOT = Path(__file__).resolve().parent.parent
LIBTPU = importlib.util.find_spec("libtpu") is not None
TINY = ("--config.model.size=debug", "--config.batch_size=8", "--config.data.text_length=16")


def run(*flags, program="plan.py", config="pretrain_vlm.py:base", **environment):
    place = [f"--config={ROOT}/experiments/configs/{config}"] if config else []
    command = [sys.executable, str(ROOT / "experiments" / program), *place, *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} | environment
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    file = tmp_path_factory.mktemp("plans") / "plan.json"
    done = run("--topology=cpu:8", f"--json={file}", "--config.mesh.data=2", *TINY)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_a_plan_counts_the_real_step(planned):
    """On 8 devices each runs an eighth; the model's need is six FLOPs a weight and token, and attention."""
    said, facts = planned
    assert facts["devices"] == 8 and facts["mesh"]["data"] == 2
    assert facts["needed"] / 8 < facts["flops"] < 2 * facts["needed"] / 8
    assert facts["causal"] < facts["needed"]
    assert facts["sent"]["all-gather"] > 0 and "collectives, GB" in said and facts["estimate"] is None
    memory = facts["memory"]
    assert memory["opt_state"] == pytest.approx(2 * memory["params"], rel=0.01)
    assert memory["peak"] > memory["params"] + memory["opt_state"] and "temporaries" in said


def test_gpus_get_times_from_the_table_of_chips(tmp_path):
    file = tmp_path / "plan.json"
    done = run("--topology=gpu:h100:4x2", f"--json={file}", "--config.mesh.tensor=2", *TINY)
    assert done.returncode == 0, done.stderr
    estimate = json.loads(file.read_text())["estimate"]
    assert 0 < estimate["shortest"] <= estimate["longest"] and estimate["network"] > 0 and estimate["links"] > 0
    assert estimate["mfu"][0] == pytest.approx(estimate["needed"] / estimate["shortest"] / (8 * 989e12))
    assert "device-hours" in done.stdout and "as a likeness" in done.stdout


def test_what_does_not_fit_ends_with_the_way_out():
    """All of a toy's state fits, and the reserve leaves it little more: a step in parts does with less."""
    done = run("--topology=gpu:rtx4090:1x1", "--reserve=0.9653", *TINY, "--config.batch_size=64")
    assert done.returncode == 3, done.stderr
    assert "does not fit; with this it does: --config.model.remat=full --config.accumulate=2\n" in done.stdout


def test_mistakes_are_one_line():
    done = run("--topology=cpu:8", "--config.mesh.data=3")
    assert done.returncode == 2 and "does not fit 8 devices" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def steps(programs):
    """The module, once `programs` has imported the experiments with flags of tests."""
    import steps

    return steps


@pytest.mark.parametrize("program", ["train_laq", "train_tokenizer", "pretrain_vlm"])
def test_each_program_has_a_step_that_can_be_counted(program, steps, load_config):
    """With batches as the program reads them, and as much work for all as the model needs."""
    mesh = sharding.make_mesh()
    config = load_config(program, "tiny")
    made = steps.make(program, config, mesh)
    assert {leaf.shape[0] for leaf in made.batch.values()} == {8}
    found = steps.needed(made)
    assert found.needed > 0 and all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(made.state))


def like(tree):
    return {name: (leaf.shape, leaf.dtype.name) for name, leaf in tree.items()}


HEADS = [{}, {"head.kind": "bins", "head.gripper": False}, {"tune": "lora", "data.proprio": True, "history": 1}]


@pytest.mark.parametrize("changes", HEADS)
def test_stage_3_is_planned_with_the_batches_that_it_reads(changes, steps, load_config, tiny_run, robot_episodes):
    """But for how many numbers an action has, which the data says."""
    import action_parts

    from lapa_jax import trained
    from lapa_jax.data import loader

    config = load_config("finetune", "tiny", vlm=str(tiny_run("pretrain_vlm")), **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.step_networks, "ACTION_DIM", 2)
        patch.setattr(steps.step_networks, "PROPRIO_DIM", 2)
        made = steps.make("finetune", config, sharding.make_mesh(devices=jax.devices()[:1]))
    planner = trained.describe_planner(config.vlm)
    task = action_parts.prepare(config, planner, robot_episodes)
    stream = loader.action_stream(
        robot_episodes, task.layout, task.statistics, task.horizon, 8, 0, planner.image_size, beside=task.beside
    )
    assert like(made.batch) == like(next(iter(stream)))
    assert steps.needed(made).needed > 0


def test_stage_3_of_7b_keeps_what_it_does_not_train_in_two_bytes(steps, load_config):
    """Without a run to read it is the VLM of stage 2's `base`."""
    config = load_config("finetune", "base", tune="head", frozen_dtype="bfloat16")
    made = steps.make("finetune", config, sharding.make_mesh(devices=jax.devices()[:1]))
    size = of_arguments(made.state, made.batch)
    assert 2 * 6.7e9 < size.params < 2 * 7.2e9 and size.opt_state < 0.02 * size.params


def test_what_a_plan_cannot_know_is_asked_for(steps, load_config):
    network = steps.step_networks.of
    with pytest.raises(errors.UserError, match="no plan for evaluate"):
        network("evaluate", load_config("pretrain_vlm"))
    with pytest.raises(errors.UserError, match="which tower"):
        network("pretrain_vlm", load_config("pretrain_vlm", "base", **{"model.image": "features"}))
    with pytest.raises(errors.UserError, match="no tower, labels or phase"):
        network("train_laq", load_config("train_laq", "tiny", **{"labels.weight": 1.0}))


def knobs():
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        import plan_knobs
    finally:
        sys.path.pop(0)
    return plan_knobs


def test_changes_that_are_tried_come_cheapest_first(load_config):
    config = load_config("pretrain_vlm", "base", **{"batch_size": 8, "model.remat": "dots"})
    small, large = (Memory(size, 0, 0, 0, 0) for size in (1.0, 100.0))
    tried = list(knobs().candidates(config, small, 10.0))
    assert tried[0] == {"model.remat": "full"} and tried[1] == {"model.remat": "full", "accumulate": 2}
    assert tried[-1] == {"model.remat": "full", "optimizer.moments": "float8", "param_dtype": "bfloat16"}
    assert all("accumulate" not in changes for changes in knobs().candidates(config, large, 10.0))
    head = load_config("finetune", "base", tune="head")
    assert next(knobs().candidates(head, large, 10.0)) == {"frozen_dtype": "bfloat16"}
    spread = load_config("pretrain_vlm", "base", **{"mesh.data": 4, "mesh.fsdp": 2})
    assert next(knobs().candidates(spread, large, 10.0)) == {"mesh.data": 1, "mesh.fsdp": 8}


def test_a_sweep_goes_on_and_names_what_it_lacks(tmp_path):
    done = run(f"--workdir={tmp_path}", "--only=nothing", program="sweep_plans.py", config=None)
    assert done.returncode == 2 and "vlm padded" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not LIBTPU, reason="needs the compiler for TPUs: pip install libtpu")
def test_for_tpus_memory_is_what_their_compiler_says(tmp_path):
    """And what is too much is refused by the compiler itself."""
    sizes = ("--config.model.size=200m", "--config.batch_size=64")
    done = run("--topology=v5e:4x4", *sizes, JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    assert done.returncode == 0 and ": fits" in done.stdout, done.stderr
    large = ("--config.model.size=7b", "--config.model.remat=none", "--config.batch_size=2048", "--noadvise")
    done = run("--topology=v5e:2x2", *large, JAX_DISABLE_MOST_OPTIMIZATIONS="0")
    assert done.returncode == 3 and "does not fit" in done.stdout, done.stderr


def test_packed_rows_are_as_full_as_they_get(steps, load_config):
    config = load_config("pretrain_vlm", "base", **{"data.packed": True, "data.row_length": 1536})
    made = steps.make("pretrain_vlm", config, sharding.make_mesh(devices=jax.devices()[:1]))
    assert made.network.filled > 0.8
    assert made.batch["tokens"].shape == (256, 1536) and made.batch["image"].shape[1:] == (5, 256)
