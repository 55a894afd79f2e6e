"""The train step of a case, on shapes alone."""

import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from step_memory.cases import Case

sys.path.append(str(Path(__file__).resolve().parents[2] / "experiments"))

import steps  # noqa: E402

from configs import pretrain_vlm as pretrain_configs  # noqa: E402


def make(case: Case, size: str, mesh: jax.sharding.Mesh) -> steps.Step:
    """The step of a case on a mesh, whose devices may be ones that are only described.

    Args:
        size: of the trunk, a key of `llama.SIZES`.
    """
    return steps.make("pretrain_vlm", config_of(case, size), mesh)


def config_of(case: Case, size: str) -> ConfigDict:
    """As the command line of `pretrain_vlm` makes it."""
    config = pretrain_configs.get_config(case.size)
    config.lock()
    config.update_from_flattened_dict({"model.size": size, "model.remat": "full", **case.changes})
    return config
