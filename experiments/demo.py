"""All of LAPA, one command: build the video, run the programs in order, write the report.

    python experiments/demo.py --size=demo --workdir=runs/demo
    python experiments/demo.py --size=demo --image=tokens --workdir=runs/demo-tokens
    python experiments/demo.py --size=demo --env=metaworld --workdir=runs/demo-metaworld

Interrupt it at any point and run it again: it goes on where it stopped.
"""

import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from importlib import metadata

import demo_stages
import demo_worlds
from absl import app, flags

from lapa_jax import errors
from lapa_jax.evaluation import intervals, report

SIZE = flags.DEFINE_enum("size", "demo", ["demo", "full", "tiny"], "Which sizes of the configs to run.")
WORKDIR = flags.DEFINE_string("workdir", None, "Everything goes here; runs/<size> by default.")
ENV = flags.DEFINE_enum("env", "tabletop", sorted(demo_worlds.WORLDS), "Which environment to film and to drive.")
IMAGE = flags.DEFINE_enum(
    "image", "stem", ["stem", "tokens", "features"],
    "How the VLM sees: by a conv stem trained with it, by ids of an image tokenizer (LWM's way), or by features of "
    "a frozen encoder; for the last two a tokenizer is trained on the same video.",
)
SEED = flags.DEFINE_integer("seed", 0, "Of the data and of every stage.")


def note(root: pathlib.Path, **facts: object) -> dict:
    """Add facts to `run.json` and return it."""
    path = root / "run.json"
    run = json.loads(path.read_text()) if path.exists() else {"stages": []}
    run.update(facts)
    path.write_text(json.dumps(run, indent=1) + "\n")
    return run


def machine() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _cpuinfo() -> list[str]:
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main(_: list[str]) -> None:
    size, image, env = SIZE.value, IMAGE.value, ENV.value
    parts = [size, *([] if image == "stem" else [image]), *([] if env == "tabletop" else [env])]
    root = pathlib.Path(WORKDIR.value or f"runs/{'-'.join(parts)}")
    root.mkdir(parents=True, exist_ok=True)
    mine = {"size": size, "seed": SEED.value, "image": image, "env": env}
    old = note(root)
    for key, value in mine.items():
        if old.get(key, value) != value:
            raise errors.UserError(
                f"{root} holds a run of {key} {old[key]}, not {value}: give another --workdir, or delete it"
            )
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")
    packages += (demo_worlds.WORLDS[env].package,)
    run = note(
        root, **mine, command=f"make demo SIZE={size} IMAGE={image} ENV={env}", machine=machine(),
        versions={"python": platform.python_version()} | {p: metadata.version(p) for p in packages},
    )
    if "started" not in run:
        run = note(root, started=_now())
    for name, command in demo_stages.commands(root, size, SEED.value, image, env).items():
        seconds = {s["name"]: s["seconds"] for s in run["stages"]}
        if name in seconds:
            print(f"== {name}: done before, in {seconds[name]:.0f} s", flush=True)
            continue
        print(f"== {name}: python {' '.join(command)}", flush=True)
        clock = time.perf_counter()
        result = subprocess.run([sys.executable, *command], check=False)
        if result.returncode:
            sys.exit(f"stage {name} ended with status {result.returncode}; mend it and run this again")
        stage = {"name": name, "seconds": round(time.perf_counter() - clock, 1)}
        run = note(root, stages=[*run["stages"], stage])
    note(root, finished=_now())
    results = json.loads((root / "evaluation" / "results.json").read_text())
    print(intervals.success_table(results))
    print(f"report: {report.write_report(root).resolve()}")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    with errors.in_one_line():
        app.run(main)
