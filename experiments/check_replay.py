"""Replay a dataset's own actions in its environment: do they still succeed, and does the state stay as recorded?

    python experiments/check_replay.py --config=experiments/configs/check_replay.py:demo \
        --workdir=runs/demo/replay --config.data.directory=runs/demo/dataset

Exit status 0: passed, 1: failed. WORKDIR/replay.json has the numbers.
"""

import dataclasses
import pathlib
from typing import Any

import launch

from lapa_jax.evaluation import recordings, replays, sanity
from lapa_jax.evaluation.closed_loop import worlds

CONFIG, WORKDIR = launch.define("check_replay")


def world_of(config: Any, image_size: int) -> worlds.World:
    """The environment, with images of the recorded size."""
    return worlds.World.of(config.env, config.env_split, config.env_args, image_size=image_size)


def tell(one: replays.Replay) -> dict[str, Any]:
    """A replay as JSON, with a line on the console."""
    kind = "as recorded" if one.success == one.recorded else "otherwise than recorded"
    end = f"success {one.success}, {kind}, {one.steps} of {one.length} steps" if one.began else "begins otherwise"
    print(f"[replay] episode {one.number}, family {one.family}, seed {one.seed}: {end}", flush=True)
    drift = {name: values.tolist() for name, values in one.drift.items()}
    return dataclasses.asdict(one) | {"drift": drift}


def main(_: Any) -> int:
    config, data = CONFIG.value, CONFIG.value.data
    launch.start(config, share="nothing")
    stored = recordings.Recordings.open(data.directory, data.split, data.cache)
    chosen = list(stored.spread(config.episodes))
    with replays.Stage(world_of(config, stored.image_size)) as stage:
        done = [replays.replay(stage, recording) for recording in chosen]
    details = {"dataset": str(data.directory), "split": data.split, "episodes": [tell(one) for one in done]}
    found = replays.lines(done, replays.scales(chosen), config.thresholds)
    return int(not sanity.conclude(pathlib.Path(WORKDIR.value) / "replay.json", found, details))


if __name__ == "__main__":
    launch.run(main)
