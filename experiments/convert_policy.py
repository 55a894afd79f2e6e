"""A VLM that says actions as bins, such as the official finetuned LAPA, as a policy; nothing is trained.

    python experiments/convert_policy.py --vlm=runs/lapa_finetuned --bins=simpler.csv --workdir=runs/lapa_policy

The VLM is a pretrain_vlm run with a table and a head of actions (docs/import-official.md); the bins are those it
was trained with, and the only place where its units are known.
"""

import dataclasses

import conversion
import jax
import numpy as np
from absl import app, flags

from lapa_jax import errors, policy, sharding, trained, training
from lapa_jax.actions import task as task_lib
from lapa_jax.data import action_bins, statistics

_VLM = flags.DEFINE_string("vlm", None, "Folder of a pretrain_vlm run with ids of actions.", required=True)
_BINS = flags.DEFINE_string("bins", None, "CSV of bin edges.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "The policy's folder to make.", required=True)
_NAMES = flags.DEFINE_list("names", [], "Of the numbers of an action: dx,dy,...,gripper.")
_CONVENTION = flags.DEFINE_string("convention", None, "What they are: units, delta or absolute, of what.")


def of_bins(bins: action_bins.ActionBins) -> statistics.Statistics:
    """What edges at equal shares of the data say of its statistics: float32[A] each; no row was counted."""
    columns = [np.interp(np.linspace(0, 1, 1001), np.linspace(0, 1, len(e)), e) for e in bins.edges]
    found = statistics.compute([np.stack(columns, axis=1).astype(np.float32)])
    return dataclasses.replace(found, count=0)


def main(_: list[str]) -> None:
    planner = trained.describe_planner(_VLM.value)
    if "action" not in planner.model.heads:
        raise errors.UserError(
            f"{_VLM.value} says no actions: make it from a finetuned file, with 'action' among --config.model.heads"
        )
    bins = action_bins.read(_BINS.value)
    names = _NAMES.value or None
    said = {"names": names, "convention": _CONVENTION.value, "declared_by": "convert_policy"}
    space = said if names or _CONVENTION.value else None
    head = {"kind": "bins", "horizon": 1, "width": 0}
    task = task_lib.ActionTask.of(planner, head, of_bins(bins), bins=bins, action_space=space)

    mesh = sharding.make_mesh(devices=jax.local_devices())
    init = training.make_init(task.init_fn(), param_dtype=planner.config["dtype"])

    def make_state() -> training.TrainState:
        return policy.with_planner(training.init_sharded(init, mesh, seed=0), _VLM.value)

    config, told = {"vlm": _VLM.value, "bins": _BINS.value}, {"bins": bins.counts.tolist()}
    conversion.save(_WORKDIR.value, config, task.to_json(), mesh, make_state, told)


if __name__ == "__main__":
    with errors.in_one_line():
        app.run(main)
