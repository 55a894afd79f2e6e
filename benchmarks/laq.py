"""Training and labelling of the official LAQ: ours beside the same network in PyTorch, in one run.

    pip install -e . torch                     # torch is of this benchmark only
    python benchmarks/laq.py --size=small --batch=16 --minutes=5
    python benchmarks/laq.py --size=official --batch=2 --minutes=15 --json=runs/laq_speed.json
    python benchmarks/laq.py --size=official --alone --batches=64,128,256   # on a GPU or TPU; no torch

Both get the same weights, the same batch and the same cores, each in a process of its own, and take turns. Before
they race they must give the same codes, and losses and gradient norms within 1e-4 over three steps. The baseline is
eager PyTorch, as the official code runs. `--alone` measures ours only, in bfloat16, on JAX's default device.
"""

import dataclasses
import importlib.util
import os
import tempfile
from typing import Any

from absl import app, flags

from lapa_jax import errors
from laq_speed import duel, sizes
from laq_speed.job import Job
from race import contestants, told, turns

_SIZE = flags.DEFINE_enum("size", "small", list(sizes.SIZES), "Which network; benchmarks/laq_speed/sizes.py.")
_BATCH = flags.DEFINE_integer("batch", 16, "Pairs.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns of each contestant in each race.", lower_bound=2)
_MINUTES = flags.DEFINE_float("minutes", 5.0, "For the two races together; set-up and compiling come on top.")
_COMPILED = flags.DEFINE_bool("compiled", False, "Also PyTorch through torch.compile; wants a C++ compiler.")
_KEEP_MEMORY = flags.DEFINE_bool("keep_memory", True, "Both allocators keep freed blocks (glibc settings).")
_ALONE = flags.DEFINE_bool("alone", False, "Ours only, in bfloat16, on JAX's default device: pairs/s and MFU.")
_BATCHES = flags.DEFINE_list("batches", ["64", "128", "256"], "With --alone: pairs, one measurement each.")
_REMAT = flags.DEFINE_bool("remat", False, "With --alone: layers are computed again in the backward pass.")
_PEAK = flags.DEFINE_float("peak_tflops", None, "With --alone: of the device, where our table lacks it.")
_JSON = flags.DEFINE_string("json", None, "File for all numbers.")


def measure(job: Job, names: list[str]) -> dict[str, Any]:
    """That the networks are the same, and pairs a second of each in both tasks."""
    with contestants.contestants(duel.kinds(names), job, _KEEP_MEMORY.value) as competing:
        found: dict[str, Any] = {"same": duel.check(competing)}
        found["product_gflops"] = {name: one("product") for name, one in competing.items()}
        products = ", ".join(f"{name} {speed:.0f}" for name, speed in found["product_gflops"].items())
        print("matrix products alone, GFLOP/s:", products, flush=True)
        for task in duel.TASKS:
            seconds = _MINUTES.value * 60 / len(duel.TASKS)
            found[task] = turns.race(competing, task, job.batch, _ROUNDS.value, seconds)
            print(found[task].lines(task, "pairs", duel.BASELINE), flush=True)
    return found


def _race() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        raise errors.UserError("this benchmark compares with PyTorch: pip install torch, the CPU build will do")
    names = ["ours", "eager"] + ["compiled"] * _COMPILED.value
    with tempfile.TemporaryDirectory() as folder:
        job = Job(_SIZE.value, _BATCH.value, len(os.sched_getaffinity(0)), folder)
        print(f"{job.size}, batch {job.batch}, {job.threads} threads, float32", flush=True)
        found = measure(job, names)
    races = {task: dataclasses.asdict(found[task]) for task in duel.TASKS}
    about = {"batch": job.batch, "threads": job.threads, "rounds": _ROUNDS.value}
    return about | {name: found[name] for name in ("same", "product_gflops")} | {"races": races}


def _alone() -> dict[str, Any]:
    from laq_speed import alone  # after the flags: it starts JAX, which the race leaves to its processes
    from race import accelerator

    batches = told.batches(_BATCHES.value)
    speeds = alone.table(_SIZE.value, batches, _MINUTES.value * 60, _ROUNDS.value, _REMAT.value, _PEAK.value)
    found = [dataclasses.asdict(one) for one in speeds]
    return {"device": accelerator.device(), "remat": _REMAT.value, "speeds": found}


def _run() -> None:
    found = _alone() if _ALONE.value else _race()
    told.write(_JSON.value, _SIZE.value, found)


def main(_: list[str]) -> None:
    with errors.in_one_line():
        _run()


if __name__ == "__main__":
    app.run(main)
