"""How a train step scales from 1 to 512 devices, by counts that do not hang on this machine; and processes here.

    python benchmarks/scaling.py --json=runs/scaling.json
    python benchmarks/scaling.py --parts=processes --data=runs/demo/dataset

`weak` has so many rows a device, `strong` the same batch on all: FLOPs, memory traffic and bytes sent of one
device in a step of stage 2, from its program compiled for fake CPU devices, parameters shared by all (fsdp). Ideal
is: weak, the same FLOPs at any size; strong, a share of them. XLA for CPUs computes in float32 and sums gradients
whole, so bytes are about three times those of an accelerator. `processes` trains the demo's LAQ in 1, 2 and 4
processes of this machine: a check that it runs, no measure of anything else.
"""

import datetime
import json
import pathlib
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from absl import app, flags

from lapa_jax import errors

ROOT = pathlib.Path(__file__).resolve().parent.parent
_PARTS = flags.DEFINE_list("parts", ["weak", "strong"], "Of weak, strong, processes.")
_DEVICES = flags.DEFINE_list("devices", [str(2**n) for n in range(10)], "Numbers of devices.")
_SIZE = flags.DEFINE_string("size", "200m", "Of the trunk.")
_ROWS = flags.DEFINE_integer("rows", 1, "A device, in weak scaling.")
_BATCH = flags.DEFINE_integer("batch", 512, "Rows, in strong scaling.")
_DATA = flags.DEFINE_string("data", None, "A dataset, for processes.")
_STEPS = flags.DEFINE_integer("steps", 60, "Of processes.")
_JSON = flags.DEFINE_string("json", None, "File for all numbers, written after each cell.")


def cell(devices: int, batch: int) -> dict[str, Any]:
    """A plan, by `experiments/plan.py`."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "plan.json"
        command = [sys.executable, str(ROOT / "experiments" / "plan.py"), f"--topology=cpu:{devices}"]
        command += [f"--config={ROOT}/experiments/configs/pretrain_vlm.py:base", f"--json={file}"]
        command += [f"--config.model.size={_SIZE.value}", f"--config.batch_size={batch}"]
        command += ["--config.data.row_length=384", "--config.data.text_length=128"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise errors.UserError(f"no plan for {devices} devices: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(file.read_text())


def planned(part: str) -> Iterator[dict[str, Any]]:
    for devices in map(int, _DEVICES.value):
        batch = devices * _ROWS.value if part == "weak" else _BATCH.value
        found = cell(devices, batch)
        keep = {"devices": devices, "batch": batch, "sent": sum(found["sent"].values()), "by_kind": found["sent"]}
        yield keep | {name: found[name] for name in ("flops", "traffic", "needed", "compile_seconds")}


def processes() -> Iterator[dict[str, Any]]:
    if _DATA.value is None:
        raise errors.UserError("--parts=processes trains on a dataset: give --data, as runs/demo/dataset")
    for count in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            yield {"processes": count, "steps_per_second": _speed(count, pathlib.Path(folder))}


def _speed(count: int, workdir: pathlib.Path) -> float:
    """Steps a second over the second half of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "experiments" / "train_laq.py"), f"--workdir={workdir}/run"]
    command += [f"--config={ROOT}/experiments/configs/train_laq.py:demo", f"--config.data.directory={_DATA.value}"]
    command += [f"--config.num_steps={_STEPS.value}", f"--config.log_every={_STEPS.value // 2}"]
    if count > 1:
        command += ["--config.distributed.enabled=True", f"--config.distributed.coordinator=127.0.0.1:{port}"]
        command += [f"--config.distributed.num_processes={count}"]
    own = [[*command, f"--config.distributed.process_id={i}"] if count > 1 else command for i in range(count)]
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for one in own]
    said = [one.communicate()[0] for one in running]
    if any(one.returncode for one in running):
        raise errors.UserError(f"training in {count} processes failed: {said[0].strip().splitlines()[-1]}")
    rows = [json.loads(line) for line in (workdir / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row["steps_per_second"] for row in rows if "steps_per_second" in row][-1]


def _row(part: str, one: dict[str, Any], first: dict[str, Any]) -> str:
    if part == "processes":
        ratio = one["steps_per_second"] / first["steps_per_second"]
        return f"| {one['processes']} | {one['steps_per_second']:.2f} | {ratio:.2f} |"
    ideal = first["flops"] if part == "weak" else first["flops"] * first["devices"] / one["devices"]
    return (
        f"| {one['devices']} | {one['batch']} | {one['flops'] / 1e9:.1f} | {one['flops'] / ideal:.3f} | "
        f"{one['traffic'] / 1e9:.2f} | {one['sent'] / 1e9:.3f} |"
    )


HEADS = dict.fromkeys(
    ("weak", "strong"),
    "| devices | rows | GFLOP a device | over ideal | traffic, GB | sent, GB |\n|---|---|---|---|---|---|",
) | {"processes": "| processes | steps/s | against one |\n|---|---|---|"}


def _run() -> None:
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "machine": platform.platform(), "size": _SIZE.value,
    }  # fmt: skip
    for part in _PARTS.value:
        if part not in HEADS:
            raise errors.UserError(f"--parts={part}: choose among {', '.join(HEADS)}")
        print(f"\n{part}\n{HEADS[part]}", flush=True)
        found[part] = []
        for one in processes() if part == "processes" else planned(part):
            found[part].append(one)
            print(_row(part, one, found[part][0]), flush=True)
            if _JSON.value:
                pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=1) + "\n")


def main(_: list[str]) -> None:
    with errors.in_one_line():
        _run()


if __name__ == "__main__":
    app.run(main)
