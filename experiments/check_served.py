"""Feed training images through a deployed server, and reproduce what the training reached.

    python experiments/check_served.py --config=experiments/configs/check_served.py:demo \
        --workdir=runs/demo/served --config.policy=runs/demo/finetune --config.server=ws://127.0.0.1:8000

Exit status 0: passed, 1: failed. WORKDIR/served.json has the numbers.
"""

import dataclasses
import json
import pathlib
from typing import Any

import launch
import policies
from ml_collections import ConfigDict

from lapa_jax import checkpoints, errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import sources, statistics
from lapa_jax.evaluation import deployed, sanity
from lapa_jax.evaluation.closed_loop import observations

CONFIG, WORKDIR = launch.define("check_served")


def training_data(config: Any) -> tuple[episodes_lib.Episodes, statistics.Statistics]:
    """The episodes that the policy was trained on, and the statistics that its actions are normalised with."""
    data = ConfigDict(checkpoints.load_json(config.policy, "config")["data"])
    directory = config.directory or data.directory
    few, _ = sources.open_episodes(directory, data.split, "robot", data).divided(data.episodes)
    return few, statistics.cached(few, "action", data.normalisation, data.cache)


RATIOS = {"train_mse": "train_ratio", "val_mse": "held_out_ratio"}
"""What a run may tell of its own error, the best first -> the threshold that goes with it."""


def reference(folder: str) -> tuple[str, float]:
    """(name, value) of the run's own error: on its training episodes where it tells, else on held-out ones.

    Raises:
        UserError: the run is not finished.
    """
    path = pathlib.Path(folder) / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    for name in RATIOS:
        if name in summary:
            return name, summary[name]
    raise errors.UserError(f"{path} tells no error: give the folder of a finished finetune run")


def main(_: Any) -> int:
    config = CONFIG.value
    if config.policy is None or config.server is None:
        raise errors.UserError("which policy, which server? give --config.policy=FOLDER and --config.server=ws://...")
    launch.start(config, share="nothing")
    name, error = reference(config.policy)
    few, stats = training_data(config)
    with policies.opened(config.policy) as local, policies.opened(config.server) as served:
        wanted = observations.Wanted.of(served.metadata)
        history = getattr(local, "metadata", {}).get("history", 0)
        chosen = deployed.samples(few, wanted, local.horizon, config.steps, config.seed, history)
        chosen = deployed.told(chosen, local.infer)
        found = deployed.compare(served.infer, local.infer, chosen, stats, config.thresholds.difference)
        hashes = [getattr(one, "metadata", {}).get("checkpoint") for one in (local, served)]
    same = hashes[0] == hashes[1] if all(hashes) else None
    details = {"server": config.server, "steps": len(chosen), name: error, **dataclasses.asdict(found)}
    limits = config.thresholds.to_dict()
    lines = deployed.lines(found, error, same, limits | {"error_ratio": limits[RATIOS[name]]})
    return int(not sanity.conclude(pathlib.Path(WORKDIR.value) / "served.json", lines, details))


if __name__ == "__main__":
    launch.run(main)
