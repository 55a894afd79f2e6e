"""Which jobs a run consists of, and running them."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import contestants, dataset

Job = contestants.Job
_OURS = ("ours", "ours_array_record", "ours_compressed")
_THEIRS = ("tf_data", "tf_data_plain", "folders")
_RESIZED = 224  # side of the frames where a resize is needed, as OpenVLA has it
_LIMIT_S = 3600


@dataclasses.dataclass(frozen=True)
class Done:
    """A job and what came of it: its measurements, or {"failed": why}."""

    job: Job
    result: Mapping[str, Any]


def jobs(base: Job, size: dataset.Size, tensorflow: bool) -> dict[str, Job]:
    """name -> job, in the order in which they are run.

    Args:
        base: with folder, cache, cores, batch, buffer and seconds.
        size: of the dataset.
        tensorflow: whether contestants that need it take part.
    """
    pairs = size.frames - size.episodes * round(contestants.SECONDS * dataset.RATE)
    base = dataclasses.replace(base, pairs=pairs, buffer=min(base.buffer, pairs))
    half = dataclasses.replace(base, pairs=pairs // 2, split="half", buffer=min(base.buffer, pairs // 2))
    deep = int(0.6 * pairs / base.batch)
    cores_used = sorted({1, base.cores})
    planned: dict[str, Job] = {}

    def add(name: str, contestant: str, task: str, start: Job = base, **changes: Any) -> None:
        if tensorflow or not contestants.CONTESTANTS[contestant].tensorflow:
            planned[name] = dataclasses.replace(start, contestant=contestant, task=task, **changes)

    add("speed/decode/1", "decode", "speed", cores=1)
    for cores in cores_used:
        for name in (*_OURS, *_THEIRS):
            add(f"speed/{name}/{cores}", name, "speed", cores=cores)
    add(f"speed/ours_processes/{base.cores}", "ours_processes", "speed")
    for name in ("ours", "tf_data"):
        add(f"resized/{name}/1", name, "speed", cores=1, size=_RESIZED)
    for name in ("small", "small_decoded"):
        add(f"speed/{name}/1", name, "speed", cores=1)
    add("first/ours/no index", "ours", "first", cache="")
    for name in ("ours", "tf_data", "folders"):
        add(f"first/{name}", name, "first")
    for name in ("ours", "tf_data"):
        add(f"resume/{name}", name, "first", skip=deep)
    for cores in cores_used:
        add(f"index/{cores}", "ours", "index", cores=cores, cache="")
    for name in (*_OURS, "tf_data", "folders"):
        add(f"epoch/{name}", name, "epoch")
    for name in ("ours", "tf_data"):
        add(f"epoch/{name}/half", name, "epoch", half)
    add("epoch/tf_data/whole", "tf_data", "epoch", buffer=pairs, share=0.1)
    add("epoch/tf_data/whole half", "tf_data", "epoch", half, buffer=pairs // 2, share=0.1)
    return planned


def run(job: Job) -> Done:
    """Does a job in a process of its own."""
    here = Path(__file__).resolve().parent.parent
    path = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pipeline.measure", json.dumps(dataclasses.asdict(job))]
    begun = time.perf_counter()
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        return Done(job, {"failed": f"not done after {_LIMIT_S} s"})
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [""]
        why = "killed, out of memory?" if ended.returncode == -9 else lines[-1][:200]
        return Done(job, {"failed": why})
    return Done(job, json.loads(ended.stdout.splitlines()[-1]) | {"took_s": time.perf_counter() - begun})
