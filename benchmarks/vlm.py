"""The trunk of stage 2 beside LLaMA of transformers (PyTorch), what packing gains, and the image tokenizer.

    pip install -e . torch                     # torch is of the race only; the CPU build will do
    python benchmarks/vlm.py --minutes=10 --json=runs/vlm_speed.json
    python benchmarks/vlm.py --parts=packing,images
    python benchmarks/vlm.py --alone --size=3b --batches=1,4,16 --attention=xla,cudnn    # on a GPU or TPU, no torch

In the race both have the same weights, ids and cores, each in a process of its own, and take turns: a training step
whose loss is over all tokens, one whose loss is over the last four, and the four likeliest tokens after prompts of
300. Before, they must give the same logits and tokens, and losses and gradient norms over three steps.
"""

import dataclasses
import importlib.util
import os
import tempfile
from typing import Any

from absl import app, flags

from lapa_jax import errors
from race import contestants, told, turns
from vlm_speed import duel, sizes
from vlm_speed.job import Job

_PARTS = flags.DEFINE_list("parts", ["race", "packing", "images"], "What to measure: race, packing, images.")
_SIZE = flags.DEFINE_enum("size", "200m", list(sizes.SIZES), "Which trunk; benchmarks/vlm_speed/sizes.py.")
_ROWS = flags.DEFINE_integer("rows", 4, "Rows of a training batch, in the race.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each contestant in each race.", lower_bound=2)
_MINUTES = flags.DEFINE_float("minutes", 10.0, "For each part; set-up and compiling come on top.")
_TASKS = flags.DEFINE_multi_enum("task", list(duel.TASKS), list(duel.TASKS), "In the race; may be repeated.")
_ALONE = flags.DEFINE_bool("alone", False, "Ours only, in bfloat16, on JAX's default device: tokens/s and MFU.")
_BATCHES = flags.DEFINE_list("batches", ["1", "4", "16"], "With --alone: rows, one measurement each.")
_ROW = flags.DEFINE_integer("row", None, "With --alone: tokens of a row.", lower_bound=2)
_ATTENTION = flags.DEFINE_list("attention", ["xla"], "With --alone: implementations (docs/text-models.md).")
_REMAT = flags.DEFINE_string("remat", "none", "With --alone: what the backward pass keeps, as model.remat.")
_PARAM_DTYPE = flags.DEFINE_enum("param_dtype", "float32", ["float32", "bfloat16"], "With --alone.")
_PEAK = flags.DEFINE_float("peak_tflops", None, "With --alone: of the device, where our table lacks it.")
_JSON = flags.DEFINE_string("json", None, "File for all numbers.")


def _race() -> dict[str, Any]:
    """That the networks are the same, and how fast each is at each task."""
    if importlib.util.find_spec("torch") is None:
        raise errors.UserError("this race is with PyTorch: pip install torch, the CPU build will do")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(_SIZE.value, _ROWS.value, len(os.sched_getaffinity(0)), folder)
        print(f"{job.size}, {job.rows} rows of {job.sizes.row}, {job.threads} threads, float32", flush=True)
        with contestants.contestants(duel.KINDS, job) as competing:
            found: dict[str, Any] = {"rows": job.rows, "threads": job.threads, "same": duel.check(competing)}
            found["product_gflops"] = {name: one("product") for name, one in competing.items()}
            print("apart:", found["same"], "\nproducts alone, GFLOP/s:", found["product_gflops"], flush=True)
            tasks = {task: unit for task, unit in duel.tasks(job).items() if task in _TASKS.value}
            for task, (units, name) in tasks.items():
                seconds = _MINUTES.value * 60 / len(tasks)
                speeds = turns.race(competing, task, units, _ROUNDS.value, seconds)
                print(speeds.lines(task, name, duel.BASELINE), flush=True)
                found[task] = dataclasses.asdict(speeds)
    return found


def _packing() -> dict[str, Any]:
    from vlm_speed import packing  # after the race: it starts JAX in this process

    names = ["toy"] if _SIZE.value == "toy" else ["tokens", "features"]
    places, found = 64 if _SIZE.value == "toy" else 1920, {}
    for name in names:
        seconds = _MINUTES.value * 60 / len(names)
        one = packing.measure(sizes.SIZES[_SIZE.value], packing.CASES[name], places, _ROUNDS.value, seconds)
        print(one.speeds.lines(name, "useful tokens", packing.BASELINE), flush=True)
        print(f"{name:10} places filled:", {lane: f"{share:.1%}" for lane, share in one.filled.items()}, flush=True)
        found[name] = dataclasses.asdict(one)
    return found


def _images() -> list[dict[str, Any]]:
    from vlm_speed import images

    name, batches = ("toy", [1]) if _SIZE.value == "toy" else ("lwm", [1, 4])
    found = images.measure(name, batches, _ROUNDS.value, _MINUTES.value * 60)
    return [dataclasses.asdict(one) for one in found]


def _alone() -> dict[str, Any]:
    from race import accelerator
    from vlm_speed import alone

    batches = told.batches(_BATCHES.value)
    seconds = _MINUTES.value * 60 / (len(_ATTENTION.value) + 1) / len(batches)
    plan = alone.Plan(
        _SIZE.value, _ROW.value, batches, _ATTENTION.value, _REMAT.value, _PARAM_DTYPE.value,
        seconds, _ROUNDS.value, _PEAK.value,
    )  # fmt: skip
    speeds = [dataclasses.asdict(one) for one in alone.table(plan)]
    return {"device": accelerator.device(), "plan": dataclasses.asdict(plan), "speeds": speeds}


PARTS = {"race": _race, "packing": _packing, "images": _images}


def _run() -> None:
    if unknown := [part for part in _PARTS.value if part not in PARTS]:
        raise errors.UserError(f"--parts={unknown[0]}: choose among {', '.join(PARTS)}")
    found = {"alone": _alone()} if _ALONE.value else {part: PARTS[part]() for part in PARTS if part in _PARTS.value}
    told.write(_JSON.value, _SIZE.value, found)


def main(_: list[str]) -> None:
    with errors.in_one_line():
        _run()


if __name__ == "__main__":
    app.run(main)
