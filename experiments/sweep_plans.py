"""Layouts of the official runs on several machines: plans every cell of a table by `plan.py`, writes the table.

    pip install -e . 'libtpu==0.0.42.*'
    python experiments/sweep_plans.py --workdir=runs/plans
    python experiments/sweep_plans.py --workdir=runs/plans --topologies=v5e:8x8 --only='^vlm padded'

Each cell is a process of its own; finished ones are kept, so run it again and it goes on. `table.md` holds what is
there, the best layout of each run and machine first: it fits, and takes the least time if nothing is done at once.
"""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from absl import app, flags

from lapa_jax import errors

_WORKDIR = flags.DEFINE_string("workdir", None, "Plans and the table go here.", required=True)
_TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e-64", "v5p-32", "v6e-64", "gpu:h100:8x1"], "Machines.")
_ONLY = flags.DEFINE_string("only", "", "Regular expression: only cells in whose names it is found.")

Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """
    Attributes:
        config: of a program, with its size.
        changes: dotted key -> value, of all its cells.
        layouts: name -> changes of one of them.
        unit: samples of a step.
    """

    config: str
    changes: Changes
    layouts: Mapping[str, Changes]
    unit: int


def mesh(data: int = 1, tensor: int = 1) -> Changes:
    """Devices that are left over share parameters; with data=-1 each has them all."""
    return {"mesh.data": data, "mesh.fsdp": 1 if data == -1 else -1, "mesh.tensor": tensor}


BFLOAT16 = {"model.backbone_args.dtype": "bfloat16"}


VLM = {
    "fsdp, remat full": mesh() | {"model.remat": "full"},
    "fsdp, remat attention": mesh() | {"model.remat": "attention"},
    "fsdp, remat dots": mesh() | {"model.remat": "dots"},
    "fsdp, no remat": mesh() | {"model.remat": "none"},
    "data 2, remat dots": mesh(data=2) | {"model.remat": "dots"},
    "tensor 2, remat dots": mesh(tensor=2) | {"model.remat": "dots"},
}
LAQ = {
    "fsdp": mesh(),
    "fsdp, bfloat16": mesh() | BFLOAT16,
    "data, bfloat16": mesh(data=-1) | BFLOAT16,
}
BASE = "fsdp, remat dots"
PACKED = {"data.packed": True, "data.row_length": 1536, "data.text_length": 128, "batch_size": 64}
RUNS: Mapping[str, Run] = {
    "vlm padded": Run("pretrain_vlm.py:base", {"data.row_length": 384, "data.text_length": 128}, VLM, 256),
    "vlm packed": Run("pretrain_vlm.py:base", PACKED, {BASE: VLM[BASE]}, 320),
    "laq": Run("train_laq.py:base", {"batch_size": 512}, LAQ, 512),
}
"""The official runs: 256 rows of 384 places, the same places packed (five examples a row of 1536), 512 pairs."""


def cells() -> Iterator[tuple[str, str, Run, Changes]]:
    """(name, topology, run, changes) of those that are asked for, machine by machine."""
    for topology in _TOPOLOGIES.value:
        for run_name, run in RUNS.items():
            for layout, changes in run.layouts.items():
                name = f"{run_name}, {layout}"
                if re.search(_ONLY.value, name):
                    yield name, topology, run, {**run.changes, **changes}


def plan(file: pathlib.Path, topology: str, run: Run, changes: Changes) -> None:
    """One cell, by the program that a person would call."""
    here = pathlib.Path(__file__).resolve().parent
    command = [sys.executable, str(here / "plan.py"), f"--config={here}/configs/{run.config}"]
    command += [f"--topology={topology}", f"--json={file}", "--noadvise"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, flush=True)
    if not file.exists():
        file.with_suffix(".log").write_text(done.stdout + done.stderr)
        print(f"error: no plan; see {file.with_suffix('.log')}", file=sys.stderr, flush=True)


def table(root: pathlib.Path) -> str:
    """Markdown of all plans of a folder, by run and machine, best first."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for file in sorted(root.glob("*.json")):
        cell = json.loads(file.read_text())
        found.setdefault((cell["run"], cell["topology"]), []).append(_row(cell))
    head = "| layout | memory, GiB | TFLOP | sent, GB | s a step | samples/s | MFU | bound by |"
    parts = []
    for (run, topology), rows in sorted(found.items()):
        parts += [f"### {run} on {topology}", "", head, "|---" * 8 + "|", *(text for _, text in sorted(rows)), ""]
    return "\n".join(parts)


def _row(cell: Mapping[str, Any]) -> tuple[float, str]:
    """What rows are sorted by, and one."""
    memory, estimate = cell["memory"]["peak"] / 2**30, cell["estimate"]
    size = f"{memory:.1f}" if cell["fits"] else f"{memory:.1f}, does not fit"
    if estimate is None:
        return float("inf"), f"| {cell['layout']} | {size} | | | | | | |"
    low, high = estimate["shortest"], estimate["longest"]
    samples = f"{cell['unit'] / high:.0f} to {cell['unit'] / low:.0f}"
    mfu = f"{estimate['mfu'][1]:.0%} to {estimate['mfu'][0]:.0%}"
    numbers = f"{cell['flops'] / 1e12:.1f} | {sum(cell['sent'].values()) / 1e9:.1f} | {low:.2f} to {high:.2f}"
    key = high if cell["fits"] else 1e6 + high
    return key, f"| {cell['layout']} | {size} | {numbers} | {samples} | {mfu} | {estimate['bound']} |"


def main(_: list[str]) -> None:
    root = pathlib.Path(_WORKDIR.value)
    root.mkdir(parents=True, exist_ok=True)
    wanted = list(cells())
    if not wanted:
        raise errors.UserError(f"--only={_ONLY.value!r} is found in no cell: {'; '.join(RUNS)}")
    for name, topology, run, changes in wanted:
        file = root / (re.sub(r"\W+", "_", f"{name} {topology}") + ".json")
        if not file.exists():
            print(f"== {name} on {topology}", flush=True)
            plan(file, topology, run, changes)
            if file.exists():
                run_name, layout = name.split(", ", 1)
                cell = json.loads(file.read_text()) | {"run": run_name, "layout": layout, "unit": run.unit}
                file.write_text(json.dumps(cell, indent=1) + "\n")
        (root / "table.md").write_text(table(root))
    print(table(root))


if __name__ == "__main__":
    with errors.in_one_line():
        app.run(main)
