"""Quantisers, targets and code sizes under one budget: trains every cell of a table and writes the table.

    python experiments/compare_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/compare \
        --config.num_steps=200 --config.data.directory=runs/demo/dataset

The config is that of `train_laq`, the budget of all cells. A cell changes a few of its keys; each is trained with
several seeds, all cells with the first seed before any with the second. Finished runs are kept: run it again and
it goes on. The measures are those of `evaluate_laq` on held-out episodes.
"""

import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import launch
import train_laq
from absl import flags
from ml_collections import ConfigDict

from lapa_jax import errors

_SEEDS = flags.DEFINE_integer("seeds", 3, "runs a cell")
_CELLS = flags.DEFINE_list("cells", [], "names of CELLS, in that order; all by default")

Overrides = Mapping[str, Any]
LEARNED = ("nsvq_official", "nsvq", "vq", "vq_ema", "kl")
SMALL = {"model.code_dim": 2}  # as many dimensions as the levels (4, 2) of fsq have
CELLS: dict[str, Overrides] = {
    "fsq": {},
    **{name: {"model.quantizer": name, **SMALL} for name in LEARNED},
    **{f"{name}, plain pixels": {"model.quantizer": name, "loss.change_weight": 0.0, **SMALL} for name in LEARNED},
    "fsq, plain pixels": {"loss.change_weight": 0.0},
    "fsq, 32 codes": {"model.num_codes": 32, "model.quantizers.fsq.levels": (8, 4)},
    "nsvq, 32 codes": {"model.quantizer": "nsvq", "model.num_codes": 32, **SMALL},
    "fsq, 4 tokens": {"model.code_length": 4},
    "nsvq, 4 tokens": {"model.quantizer": "nsvq", "model.code_length": 4, **SMALL},
    "nsvq, 32 dimensions": {"model.quantizer": "nsvq", "model.code_dim": 32},
    "vq, 32 dimensions": {"model.quantizer": "vq", "model.code_dim": 32},
}
"""Name -> changed keys; target and code size are those of the config unless the name says otherwise."""


def cell(config: ConfigDict, overrides: Overrides, seed: int) -> ConfigDict:
    """The config of one run."""
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({**overrides, "seed": seed})
    return changed


def runs(root: pathlib.Path) -> Iterator[tuple[str, int, pathlib.Path]]:
    """(cell, seed, folder), seed by seed."""
    if unknown := sorted(set(_CELLS.value) - set(CELLS)):
        raise errors.UserError(f"no cell {unknown[0]!r}; choose from: {'; '.join(CELLS)}")
    for seed in range(_SEEDS.value):
        for name in _CELLS.value or CELLS:
            yield name, seed, root / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def main(_: Any) -> None:
    config, root = train_laq.CONFIG.value, pathlib.Path(train_laq.WORKDIR.value)
    mesh = launch.start(config)
    video = train_laq.open_video(config.data)
    for name, seed, folder in runs(root):
        if (folder / "cell.json").exists():
            continue
        began = time.perf_counter()
        print(f"[compare] {name}, seed {seed}", flush=True)
        train_laq.train(cell(config, CELLS[name], seed), str(folder), mesh, video)
        seconds = time.perf_counter() - began
        (folder / "cell.json").write_text(json.dumps({"cell": name, "seed": seed, "seconds": seconds}))


if __name__ == "__main__":
    launch.run(main)
