"""Trained models by the folder of their run."""

import pathlib

import jax

from lapa_jax import checkpoints, errors, training
from lapa_jax.models import laq


def load_laq(
    path: str | pathlib.Path, mesh: jax.sharding.Mesh
) -> tuple[laq.LatentActionQuantizer, training.TrainState, dict]:
    """The LAQ of a `train_laq` run: the model, its weights laid out on the mesh, and its config.

    Raises:
        UserError: the folder is not such a run, or has no checkpoint.
    """
    config = checkpoints.load_json(path, "config")
    if "backbone" not in config.get("model", {}):
        raise errors.UserError(f"{path} is not a train_laq run: give the folder of one")
    model = laq.LatentActionQuantizer(**config["model"])
    sizes = config["data"]["image_size"], config["data"].get("text_length", 1)
    init = training.make_init(laq.init_fn(model, *sizes), tx=None)
    return model, checkpoints.load_state(path, training.abstract_state(init, mesh)), config
