"""The comparison of heads: its table, what it refuses, and a cell from beginning to end."""

import importlib
import json
import types

import pytest

from lapa_jax import errors


@pytest.fixture
def compare(monkeypatch):
    module = importlib.import_module("compare_heads")

    def flags(**values):
        defaults = dict(VLM="vlm", DATA="data", WORKDIR="x", SIZE="tiny", CELLS=[], SEEDS=1, SET=[], CALLS=1)
        for name, value in (defaults | values).items():
            monkeypatch.setattr(module, f"_{name}", types.SimpleNamespace(value=value))
        return module

    return flags


def cell(successes, **numbers):
    return {"all": {"successes": successes, "trials": 10}, "val_mse": 0.5, "ms_1": 1.0, "ms_16": 2.0} | numbers


def test_successes_of_seeds_are_added_and_unknown_times_are_left_out(compare):
    cells = {"flow head": [cell(2, seconds=None), cell(4, seconds=30.0)], "l1 all": [cell(0, seconds=None)]}
    first, second = compare().table(cells).splitlines()[2:]
    assert first.startswith("| flow head | 2 | 30 % [15, 52] | 0.500 | 30 |") and "| - |" in second


def test_a_cell_of_other_arguments_is_refused(compare, tmp_path):
    program = compare(SET=["head.horizon=2"])
    folder = tmp_path / "latents-head-0"
    folder.mkdir()
    assert program.finished("latents head", 0, folder) is None
    done = cell(1) | {"arguments": program.said("latents head", 0)}
    (folder / "cell.json").write_text(json.dumps(done))
    assert program.finished("latents head", 0, folder)["val_mse"] == 0.5
    with pytest.raises(errors.UserError, match="latents-head-0 was run with"):
        compare(SET=["head.horizon=3"]).finished("latents head", 0, folder)


def test_unknown_cells_are_told_with_the_known_ones(compare, tmp_path):
    with pytest.raises(errors.UserError, match="no cell 'mystery'; choose from: latents head; "):
        list(compare(CELLS=["mystery"]).runs(tmp_path))


@pytest.mark.slow
def test_a_cell_is_trained_driven_and_timed(compare, tiny_run, tabletop_dataset, tmp_path):
    places = dict(VLM=str(tiny_run("pretrain_vlm")), DATA=str(tabletop_dataset), WORKDIR=str(tmp_path))
    compare(CELLS=["l1 head"], **places).main([])
    (one,) = json.loads((tmp_path / "table.json").read_text())["l1 head"]
    assert one["all"]["trials"] == 4 and one["ms_1"] > 0
    assert "| l1 head | 1 |" in (tmp_path / "table.md").read_text()
