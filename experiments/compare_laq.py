"""Quantisers, targets and code sizes under one budget: trains every cell of a table and writes the table.

    python experiments/compare_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/compare \
        --config.num_steps=200 --config.data.directory=runs/demo/dataset

The config is that of `train_laq`, the budget of all cells. A cell changes a few of its keys; each is trained with
several seeds, all cells with the first seed before any with the second. Finished runs are kept: run it again and
it goes on. The measures are those of `evaluate_laq` on held-out episodes; `table.md` and `table.json` hold what is
there so far.
"""

import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import cells
import jax
import launch
import numpy as np
import train_laq
from absl import flags
from ml_collections import ConfigDict

from lapa_jax import trained
from lapa_jax.data import episodes, sources
from lapa_jax.data.stored import storage
from lapa_jax.evaluation.judge import court, outcome, pairs, subject

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
    """See `cells.runs`."""
    return cells.runs(root, CELLS, _CELLS.value, _SEEDS.value)


def judge(folder: pathlib.Path, mesh: jax.sharding.Mesh, robot: episodes.Mixture, count: int) -> dict[str, Any]:
    """The measures of one run on held-out pairs, and how fast it labels."""
    model, state, run = trained.load_laq(folder, mesh)
    data, member = run["data"], robot.members[0]
    sampled = pairs.Pairs.sample(member.name, member, data["gap"], count, data["image_size"], seed=0)
    judged = subject.Subject.of(model, state)
    results = court.Case.open(judged, sampled, seed=0).results()
    began = time.perf_counter()  # after the case has compiled it
    judged.encode(sampled.held.frame, sampled.held.following)
    speed = len(sampled) / (time.perf_counter() - began)
    return {name: outcome.read(results, path)[0] for name, path in COLUMNS.items()} | {"pairs/s": speed}


COLUMNS = {
    "codes in use": "usage.used_share",
    "perplexity": "usage.perplexity_share",
    "gain": "images.gain_db",
    "probe R²": "probes.latent.linear.r2",
    "probe of z": "probes.z.linear.r2",
    "ΔPSNR": "control.delta_db",
    "swap": "swap.over_chance",
}
"""Column -> path in the results of `evaluate_laq`."""


WHOLE = ("pairs/s", "seconds")
"""Columns shown without decimals."""


def row(name: str, found: list[dict[str, Any]]) -> str:
    """One line of the table: means and, of several seeds, standard deviations."""
    values = {c: [one[c] for one in found if one[c] is not None] for c in (*COLUMNS, *WHOLE)}
    cells = [_shown(column, several) for column, several in values.items()]
    return f"| {name} | {len(found)} | {' | '.join(cells)} |"


def _shown(column: str, values: list[float]) -> str:
    if not values:
        return "-"
    if column in WHOLE:
        return f"{np.mean(values):.0f}"
    return f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")


def write_table(root: pathlib.Path) -> None:
    """`table.md` and `table.json` of the runs that are judged."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CELLS}
    for path in sorted(root.glob("*/cell.json")):
        one = json.loads(path.read_text())
        if "pairs/s" in one:
            found[one["cell"]].append(one)
    rows = [row(name, several) for name, several in found.items() if several]
    head = "| recipe | seeds | " + " | ".join((*COLUMNS, *WHOLE)) + " |"
    rule = "|---" * (head.count("|") - 1) + "|"
    (root / "table.md").write_text("\n".join((head, rule, *rows)) + "\n", encoding="utf-8")
    storage.write_json(root / "table.json", found)


def main(_: Any) -> None:
    config, root = train_laq.CONFIG.value, pathlib.Path(train_laq.WORKDIR.value)
    mesh = launch.start(config, share="nothing")
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
        done = {"cell": name, "seed": seed, "seconds": time.perf_counter() - began}
        storage.write_json(folder / "cell.json", done)
    robot = sources.open_mixture(config.data, config.data.val_split, "robot")
    for path in sorted(root.glob("*/cell.json")):
        one = json.loads(path.read_text())
        if "pairs/s" not in one:
            print(f"[compare] judging {path.parent.name}", flush=True)
            with jax.set_mesh(mesh):
                one |= judge(path.parent, mesh, robot, config.evaluation.pairs)
            storage.write_json(path, one)
            write_table(root)
    print((root / "table.md").read_text())


if __name__ == "__main__":
    launch.run(main)
