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
PLAIN = {"loss.change_weight": 0.0}


def learned(quantizer: str, dim: int = 2, **more: Any) -> Overrides:
    """A quantiser with a vector of its own size; 2 is what the levels (4, 2) of fsq have."""
    return {"model.quantizer": quantizer, "model.code_dim": dim, **more}


CELLS: dict[str, Overrides] = {
    "fsq": {},
    "nsvq": learned("nsvq"),
    "nsvq_official": learned("nsvq_official"),
    "vq": learned("vq"),
    "vq_ema": learned("vq_ema"),
    "kl": learned("kl"),
    "fsq plain pixels": PLAIN,
    "nsvq plain pixels": learned("nsvq", **PLAIN),
    "fsq 32 codes": {"model.num_codes": 32, "model.quantizers.fsq.levels": (8, 4)},
    "nsvq 32 codes": learned("nsvq", **{"model.num_codes": 32}),
    "fsq 4 tokens": {"model.code_length": 4},
    "nsvq 4 tokens": learned("nsvq", **{"model.code_length": 4}),
    "nsvq 32 dimensions": learned("nsvq", 32),
    "fsq features": {"model.target": "features", "model.backbone_args.patch_size": 1, **PLAIN},
    "nsvq features": learned("nsvq", **{"model.target": "features", "model.backbone_args.patch_size": 1, **PLAIN}),
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
            yield name, seed, root / f"{name.replace(' ', '-')}-{seed}"


def main(_: Any) -> None:
    config, root = train_laq.CONFIG.value, pathlib.Path(train_laq.WORKDIR.value)
    mesh = launch.start(config)
    video = train_laq.open_video(config.data)
    for name, seed, folder in runs(root):
        if (folder / "cell.json").exists():
            continue
        if CELLS[name].get("model.target") == "features" and config.tower.path is None:
            print(f"[compare] {name}: no tower, give --config.tower.path; left out", flush=True)
            continue
        began = time.perf_counter()
        print(f"[compare] {name}, seed {seed}", flush=True)
        one = cell(config, CELLS[name], seed)
        if one.model.target == "pixels":
            one.tower.path = None
        train_laq.train(one, str(folder), mesh, video)
        seconds = time.perf_counter() - began
        (folder / "cell.json").write_text(json.dumps({"cell": name, "seed": seed, "seconds": seconds}))


if __name__ == "__main__":
    launch.run(main)
