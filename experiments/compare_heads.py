"""Action heads under one budget: the same VLM, episodes and updates for each, driven in closed loop and timed.

    python experiments/compare_heads.py --vlm=runs/demo/vlm --data=runs/demo/dataset --workdir=runs/heads

Cells are run one after the other by the programs `finetune` and `evaluate`; finished ones are kept, so run it again
and it goes on. `table.md` and `table.json` hold what is there; latencies are measured at the end, together.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import cells
import numpy as np
from absl import app, flags

from lapa_jax import errors, policy
from lapa_jax.data.stored import storage
from lapa_jax.evaluation import intervals

_VLM = flags.DEFINE_string("vlm", None, "Folder of a pretrain_vlm run.", required=True)
_DATA = flags.DEFINE_string("data", None, "Folder of the dataset with the labelled episodes.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Everything goes here.", required=True)
_SIZE = flags.DEFINE_string("size", "demo", "Of the configs of finetune and evaluate.")
_CELLS = flags.DEFINE_list("heads", [], "Names of CELLS, in that order; all by default.")
_SEEDS = flags.DEFINE_integer("repeats", 1, "Runs a cell; all with the first seed before any with the second.")
_SET = flags.DEFINE_multi_string("set", [], "An override of finetune's config for all cells, as head.horizon=2.")
_CALLS = flags.DEFINE_integer("calls", 100, "Of infer, to time it.", lower_bound=1)

CELLS: dict[str, Mapping[str, Any]] = {
    f"{kind} {tune}": {"head.kind": kind, "tune": tune}
    for tune in ("head", "all")
    for kind in ("latents", "features", "l1", "bins", "flow")
}
CELLS |= {
    "latents lora": {"head.kind": "latents", "tune": "lora"},
    "latents head proprio": {"head.kind": "latents", "tune": "head", "data.proprio": True},
    "latents head history": {"head.kind": "latents", "tune": "head", "history": 2},
    "latents scratch": {"head.kind": "latents", "scratch": True},
}
"""Name -> changed keys of `finetune`."""


def runs(root: pathlib.Path) -> Iterator[tuple[str, int, pathlib.Path]]:
    """See `cells.runs`."""
    return cells.runs(root, CELLS, _CELLS.value, _SEEDS.value)


def program(name: str, workdir: pathlib.Path, overrides: Mapping[str, Any]) -> None:
    """One program of ours to its end."""
    changed = [f"--config.{key}={value}" for key, value in overrides.items()]
    script = pathlib.Path(__file__).with_name(f"{name}.py")
    config = f"--config={script.with_name('configs') / f'{name}.py'}:{_SIZE.value}"
    done = subprocess.run([sys.executable, script, config, f"--workdir={workdir}", *changed], check=False)
    if done.returncode:
        raise errors.UserError(f"{name} in {workdir} ended with status {done.returncode}: see what it said above")


def arguments(name: str, seed: int) -> dict[str, Any]:
    """Changed keys of finetune's config."""
    given = dict(one.split("=", 1) for one in _SET.value)
    return {"vlm": _VLM.value, "data.directory": _DATA.value, "seed": seed, **given, **CELLS[name]}


def said(name: str, seed: int) -> dict[str, str]:
    """All that a cell hangs on."""
    return {"size": _SIZE.value, **{key: str(value) for key, value in arguments(name, seed).items()}}


def finished(name: str, seed: int, folder: pathlib.Path) -> dict[str, Any] | None:
    """What came of a cell that has been run; None where it has not.

    Raises:
        UserError: it was run with other arguments.
    """
    path = folder / "cell.json"
    done = json.loads(path.read_text()) if path.exists() else None
    if done is not None and done["arguments"] != said(name, seed):
        raise errors.UserError(f"{folder} was run with {done['arguments']}: give another --workdir, or remove it")
    return done


def run_cell(name: str, seed: int, folder: pathlib.Path) -> None:
    """Finetune and evaluate; `cell.json` holds what came of it."""
    fresh, began = not (folder / "finetune").exists(), time.perf_counter()
    program("finetune", folder / "finetune", arguments(name, seed))
    seconds = time.perf_counter() - began if fresh else None  # of a whole training, or not known
    steps = {"execute": CELLS[name]["history"]} if "history" in CELLS[name] else {}
    program("evaluate", folder / "evaluation", {"policies.lapa": folder / "finetune", "bounds": "()", **steps})
    found = json.loads((folder / "evaluation" / "results.json").read_text())["policies"]["lapa"]
    trained = json.loads((folder / "finetune" / "summary.json").read_text())
    done = {"cell": name, "seed": seed, "arguments": said(name, seed), "seconds": seconds}
    done |= {"val_mse": trained["val_mse"], **found}
    storage.write_json(folder / "cell.json", done)


def latency(folder: pathlib.Path, calls: int) -> dict[str, float]:
    """Median milliseconds of `infer`, for one observation and for a batch of 16."""
    driver = policy.Policy.from_checkpoint(folder)
    rng, found = np.random.default_rng(0), {}
    for rows in (1, 16):
        size = (rows, driver.image_size, driver.image_size, 3)
        asked: dict[str, Any] = {camera: rng.integers(0, 256, size, np.uint8) for camera in driver.task.cameras}
        asked["instruction"] = ["push the red cube left"] * rows
        if driver.task.proprio is not None:
            asked["proprio"] = np.tile(driver.task.proprio.mean, (rows, 1))
        driver.infer(asked)
        clocks = []
        for _ in range(calls):
            began = time.perf_counter()
            driver.infer(asked)
            clocks.append(time.perf_counter() - began)
        found[f"ms_{rows}"] = 1e3 * statistics.median(clocks)
    return found


SHOWN = {"val_mse": ".3f", "seconds": ".0f", "ms_1": ".1f", "ms_16": ".1f"}
"""Columns that are means over seeds, and how they are written."""


def table(found_of: Mapping[str, list[dict[str, Any]]]) -> str:
    """Markdown; successes of several seeds are added up."""
    lines = ["| head | runs | success | held-out error | training, s | ms, one | ms, 16 |", "|---" * 7 + "|"]
    for name, found in found_of.items():
        successes, trials = (sum(one["all"][key] for one in found) for key in ("successes", "trials"))
        known = {key: [one[key] for one in found if one[key] is not None] for key in SHOWN}
        means = " | ".join(format(np.mean(known[key]), form) if known[key] else "-" for key, form in SHOWN.items())
        lines.append(f"| {name} | {len(found)} | {intervals.Rate(successes, trials)} | {means} |")
    return "\n".join(lines) + "\n"


def main(_: list[str]) -> None:
    root = pathlib.Path(_WORKDIR.value)
    for name, seed, folder in runs(root):
        if finished(name, seed, folder) is None:
            print(f"== {name}, seed {seed}", flush=True)
            run_cell(name, seed, folder)
    done: dict[str, list[dict[str, Any]]] = {}
    for name, seed, folder in runs(root):
        one = finished(name, seed, folder)
        done.setdefault(name, []).append({**one, **latency(folder / "finetune", _CALLS.value)})
    storage.write_json(root / "table.json", done)
    (root / "table.md").write_text(table(done))
    print(table(done))


if __name__ == "__main__":
    with errors.in_one_line():
        app.run(main)
