"""Frame pairs a second, memory, start and resume of the loader, beside the two pipelines that others use.

    python benchmarks/data_pipeline.py --data=/tmp/benchmark --gigabytes=2

Each contestant reads the same dataset in a process of its own. The dataset is made once, and needs about four
times --gigabytes on disk. What is compared with what is said in docs/benchmarks.md, whose numbers --write
replaces. The comparison with tf.data needs TensorFlow: pip install 'lapa_jax[bench]'.
"""

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

from absl import app, flags

from lapa_jax import errors
from lapa_jax.data.stored import storage
from pipeline import contestants, dataset, plan, report

_DATA = flags.DEFINE_string("data", "runs/benchmark", "The dataset and its indices are kept here.")
_GIGABYTES = flags.DEFINE_float("gigabytes", 2.0, "Size of the records, for each camera.")
_CAMERAS = flags.DEFINE_integer("cameras", 1, "Of a step, 1..4; the first is read.")
_VIDEOS = flags.DEFINE_string("videos", None, "Folder of videos to cut frames from; drawn frames without it.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Pairs.")
_BUFFER = flags.DEFINE_integer("buffer", 10_000, "Of tf.data's shuffle, in pairs; this is Octo's for finetuning.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Of each of three windows in which speed is measured.")
_ONLY = flags.DEFINE_list("only", [""], "Run only jobs whose names begin so, for example speed/ours,index.")
_JSON = flags.DEFINE_string("json", None, "File for all that was measured.")
_WRITE = flags.DEFINE_string("write", None, "Page in which the tables are replaced.")


def _measure(base: plan.Job, size: dataset.Size, tensorflow: bool) -> dict[str, plan.Done]:
    results: dict[str, plan.Done] = {}
    about = {"command": _command(), "machine": report.machine(), "versions": report.versions()}
    about["dataset"] = dataclasses.asdict(size)
    for name, job in plan.jobs(base, size, tensorflow).items():
        if not name.startswith(tuple(_ONLY.value)):
            continue
        results[name] = plan.run(job)
        short = {k: v for k, v in results[name].result.items() if not isinstance(v, list)}
        print(f"{name}: " + ", ".join(f"{k} {v:.4g}" if k != "failed" else v for k, v in short.items()), flush=True)
        if _JSON.value:  # after each, so that nothing is lost
            found = {name: dataclasses.asdict(done) for name, done in results.items()}
            storage.write_json(Path(_JSON.value), about | {"results": found})
    if not results:
        raise errors.UserError(f"no job begins with --only={','.join(_ONLY.value)}")
    return results


def _read_once(folder: Path) -> None:
    """Into the page cache, so that nobody has to wait for the disk where another did not."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _command() -> str:
    return " ".join(["python", "benchmarks/data_pipeline.py", *sys.argv[1:]])


def _run() -> None:
    if _WRITE.value:
        report.check(Path(_WRITE.value))
    tensorflow = importlib.util.find_spec("tensorflow") is not None
    if not tensorflow:
        print("(a), tf.data, is left out: no TensorFlow here; pip install 'lapa_jax[bench]'", flush=True)
    cores, root = len(os.sched_getaffinity(0)), Path(_DATA.value).expanduser().resolve()
    gigabytes = _GIGABYTES.value * _CAMERAS.value
    folder, size = dataset.make(root, gigabytes, _CAMERAS.value, _VIDEOS.value, cores)
    _read_once(folder)
    settings = {"batch": _BATCH.value, "buffer": _BUFFER.value, "seconds": _SECONDS.value}
    base = contestants.Job("", "", str(folder), str(root / "index"), cores, **settings)
    text = report.page(_measure(base, size, tensorflow), size, _command(), tensorflow)
    print(f"\n{text}")
    if _WRITE.value:
        report.write(Path(_WRITE.value), text)


def main(_: list[str]) -> None:
    with errors.in_one_line():
        _run()


if __name__ == "__main__":
    app.run(main)
