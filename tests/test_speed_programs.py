"""Programs say how fast they are: on synthetic data, under the profiler, of a peak that is made up."""

import gzip
import json

import pytest

from lapa_jax import errors

CHANGES = {"data.synthetic": True, "profile.peak_tflops": 0.01, "num_steps": 3, "log_every": 1}


def rows(folder):
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["split"] == "train"]


@pytest.fixture(scope="module")
def runs(run_program, tabletop_dataset, tiny_run, tmp_path_factory):
    """Program -> its folder."""
    data = {"data.directory": str(tabletop_dataset)}
    own = {
        "train_laq": data,
        "pretrain_vlm": data | {"data.latents": str(tiny_run("label_latents")), "profile.steps": "2:3"},
        "finetune": data | {"vlm": str(tiny_run("pretrain_vlm"))},
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in own}
    for name, changes in own.items():
        run_program(name, folders[name], **changes, **CHANGES)
    return folders


def test_profiled_steps_leave_a_trace(runs):
    (found,) = (runs["pretrain_vlm"] / "profile" / "plugins" / "profile").iterdir()
    (xspace,) = found.glob("*.xplane.pb")
    assert b"wait for data" in xspace.read_bytes()
    trace = json.loads(gzip.open(found / "perfetto_trace.json.gz").read())
    steps = [e["args"]["step_num"] for e in trace["traceEvents"] if e.get("args", {}).get("step_num")]
    assert {str(step) for step in steps} == {"2", "3"}
    assert not (runs["finetune"] / "profile").exists()


def test_a_synthetic_run_says_so_and_its_batches_are_those_of_a_real_one(runs, tiny_run):
    for name, folder in runs.items():
        assert json.loads((folder / "config.json").read_text())["data"]["synthetic"] is True
        assert json.loads((folder / "summary.json").read_text())["synthetic"] is True
        real = tiny_run(name)
        assert "synthetic" not in json.loads((real / "summary.json").read_text())
        # The first batch is the real one; from the second on they differ.
        assert rows(folder)[0]["loss"] == pytest.approx(rows(real)[0]["loss"], rel=1e-5)


def test_each_line_tells_its_speed(runs):
    for name, folder in runs.items():
        first, *rest = rows(folder)
        assert first["first_step_seconds"] > 0 and "steps_per_second" not in first and len(rest) == 2
        for row in rest:
            assert row["samples_per_second"] == pytest.approx(8 * row["steps_per_second"])
            assert 0 <= row["data_wait"] <= 1 and 0 <= row["host_wait"] <= 1
            assert row["mfu"] > 0 and "memory_peak_gib" not in row
            assert ("mfu_padded" in row) == ("tokens_per_second" in row) == (name != "train_laq")
        one, other = ([row["mfu"] / row["steps_per_second"]] for row in rest)
        assert one == pytest.approx(other)  # the same batch needs the same


def test_padding_is_not_counted(runs):
    for name in ("pretrain_vlm", "finetune"):
        row = rows(runs[name])[-1]
        filled = row["tokens_per_second"] / row["tokens_per_second_padded"]
        # Images and heads are needed however long a row is, so MFU falls by less than tokens do.
        assert filled < row["mfu"] / row["mfu_padded"] < 1
    vlm = rows(runs["pretrain_vlm"])[-1]
    assert vlm["tokens_per_second"] / vlm["tokens_per_second_padded"] == pytest.approx(vlm["filled"])


def test_a_range_that_is_none_ends_the_program(run_program, tabletop_dataset, tmp_path):
    changes = {"data.directory": str(tabletop_dataset), "profile.steps": "15:10"}
    with pytest.raises(errors.UserError, match="15:10"):
        run_program("train_laq", tmp_path, **changes)
    with pytest.raises(errors.UserError, match="peak_tflops=-1.0 is no peak"):
        run_program("train_laq", tmp_path, **changes | {"profile.steps": "", "profile.peak_tflops": -1.0})
    assert not any(tmp_path.iterdir())
