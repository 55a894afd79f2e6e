"""The comparison of recipes: every cell trained and judged once, the table from what is there."""

import importlib
import json
import types

import pytest

from lapa_jax import errors


@pytest.fixture(scope="module")
def compare(programs):
    return importlib.import_module("compare_laq")


def run(compare, programs, load_config, root, data, cells, seeds=1):
    program = programs["train_laq"]
    program.CONFIG.value = load_config("train_laq", "tiny", **{"data.directory": str(data), "num_steps": 2})
    program.WORKDIR.value = str(root)
    compare._CELLS, compare._SEEDS = types.SimpleNamespace(value=cells), types.SimpleNamespace(value=seeds)
    compare.main([])


@pytest.mark.slow
def test_cells_are_trained_judged_and_tabled_once(compare, programs, load_config, tabletop_dataset, tmp_path):
    run(compare, programs, load_config, tmp_path, tabletop_dataset, ["fsq", "kl", "fsq features"])
    table = (tmp_path / "table.md").read_text()
    assert [line.split(" |")[0] for line in table.splitlines()[2:]] == ["| fsq", "| kl"]  # no tower was given
    found = json.loads((tmp_path / "table.json").read_text())
    assert found["kl"][0]["codes in use"] is None and found["kl"][0]["gain"] is not None
    assert found["fsq"][0]["pairs/s"] > 0 and found["fsq"][0]["seed"] == 0
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/cell.json")}
    assert len(stamps) == 2
    run(compare, programs, load_config, tmp_path, tabletop_dataset, ["fsq", "kl"])
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_table_has_the_mean_and_spread_of_seeds(compare):
    shared = {"seconds": 10.0, "pairs/s": 100.0} | dict.fromkeys(compare.COLUMNS, 1.0)
    line = compare.row("fsq", [shared, shared | {"gain": 2.0, "swap": None, "seconds": 20.0}])
    assert line.startswith("| fsq | 2 | 1.00 ± 0.00 |")
    assert "| 1.50 ± 0.71 |" in line and line.endswith("| 100 | 15 |")
    assert "| 1.00 |" in line  # swap, of one seed


def test_unknown_cells_are_told_with_the_known_ones(compare, programs, load_config, tabletop_dataset, tmp_path):
    with pytest.raises(errors.UserError, match="no cell 'magic'.*nsvq plain pixels"):
        run(compare, programs, load_config, tmp_path, tabletop_dataset, ["magic"])
