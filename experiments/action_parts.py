"""What stage 3 is made with beside a VLM: statistics, bins, what actions are, and what is trained."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lapa_jax import errors, trained
from lapa_jax.actions import task as task_lib
from lapa_jax.data import action_bins, episodes, statistics
from lapa_jax.data.stored import storage
from lapa_jax.data.tables import standard

OWN = r"(embed|head)_action"
TUNE = {
    "all": {},
    "head": {"frozen": rf"^planner/(?!{OWN})"},
    "lora": {"frozen": rf"^planner/(?!.*lora_[ab]$|{OWN})"},
}
"""What is trained, as regular expressions of the optimizer."""


def prepare(config: ConfigDict, planner: trained.Planner, few: episodes.Episodes) -> task_lib.ActionTask:
    """The task that a config names, with statistics of the episodes that are trained on.

    Raises:
        UserError: what is asked for does not fit the VLM or the data.
    """
    planner, data = tuned(config, planner), config.data
    kept = dict(scheme=data.normalisation, cache=data.cache)
    stats = statistics.cached(few, "action", **kept)
    proprio = statistics.cached(few, "proprio", **kept) if data.proprio else None
    space = action_space(few.name, config.action_space, recorded(data.directory, few.name))
    bins = bins_of(config.head.to_dict(), (few["action"][i] for i in range(len(few))), space)
    return assemble(config, planner, stats, proprio, bins, space)


def assemble(
    config: ConfigDict, planner: trained.Planner, stats: statistics.Statistics,
    proprio: statistics.Statistics | None, bins: action_bins.ActionBins | None, space: dict[str, Any] | None,
) -> task_lib.ActionTask:  # fmt: skip
    """The task of a config with a `tuned` planner, by what is known of the data; raises as `ActionTask`."""
    more = dict(history=config.history, bins=bins, action_space=space)
    cameras = ("image", *config.data.cameras)
    return task_lib.ActionTask.of(planner, config.head.to_dict(), stats, proprio, cameras, **more)


def tuned(config: ConfigDict, planner: trained.Planner) -> trained.Planner:
    """The VLM as it is trained: with thin matrices where `tune` is lora.

    Raises:
        UserError: there is no such `tune`.
    """
    if config.tune not in TUNE:
        raise errors.UserError(f"no tune={config.tune!r}: choose one of {', '.join(TUNE)}")
    if config.tune == "lora" and not config.scratch:
        return task_lib.with_lora(planner, config.lora)
    return planner


def optimizer(config: ConfigDict) -> dict[str, Any]:
    """The optimizer's keys, with the expressions of `tune` where it has none; from scratch all is trained."""
    chosen = config.optimizer.to_dict()
    if config.scratch:  # there is nothing worth keeping
        return chosen | {"trainable": "", "frozen": ""}
    if chosen["trainable"] or chosen["frozen"]:
        return chosen
    return chosen | TUNE[config.tune]


def recorded(directory: str, name: str) -> dict[str, Any]:
    """What the recorder of data/simulated wrote of the actions beside the dataset; empty where it did not."""
    for folder in storage.find(directory, "metadata.json"):
        if not storage.is_url(folder) and pathlib.Path(folder).parent.name == name:
            found = json.loads((pathlib.Path(folder) / "metadata.json").read_text())
            return dict(found.get("declared", {}).get("action_space", {}))
    return {}


def action_space(name: str, given: ConfigDict, told: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """What the numbers of an action are: by the config, what the dataset tells, the table; None: nobody says.

    Args:
        told: by the dataset itself.
    """
    said = {key: value for key, value in given.to_dict().items() if value}
    if "names" in said:
        said["names"] = said["names"].split(",")
    entry, table = standard.lookup(name), {}
    if entry is not None and entry.action_dim_names:
        table = {"names": list(entry.action_dim_names), "gripper": entry.gripper or None, "note": entry.note}
    sources = {"table": table, "dataset": told, "config": said}
    if any(sources.values()):
        by = [source for source, one in sources.items() if one]
        return {**table, **(told or {}), **said, "declared_by": ", ".join(by)}
    print(
        f"[finetune] nobody declares what the actions of {name} are, and a robot has to know: give "
        "--config.action_space.names=dx,dy,... and .convention, or an entry of the table (docs/datasets.md)"
    )
    return None


def bins_of(
    head: dict[str, Any], actions: Iterable[np.ndarray], space: dict[str, Any] | None
) -> action_bins.ActionBins | None:
    """The bins of an official CSV, or of equally many of the actions; None for heads that answer in none.

    Args:
        actions: float[T, A] of each episode, read only where bins are fitted.

    Raises:
        UserError: nobody says whether the last number is a gripper.
    """
    if not task_lib.wants_bins(head["kind"]):
        return None
    if head["bins_file"]:
        return action_bins.read(head["bins_file"])
    gripper = head["gripper"]
    if gripper is None:
        if space is None or not space.get("names"):
            raise errors.UserError("is the last number of an action a gripper, 0 or 1? say --config.head.gripper")
        gripper = space["names"][-1] == "gripper"
    return action_bins.fit(np.concatenate(list(actions)), head["bins"], gripper)
