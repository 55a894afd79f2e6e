"""Trained models by the folder of their run."""

import pathlib

import jax

from lapa_jax import checkpoints, errors, training
from lapa_jax.models import image_tokens, laq, vqgan


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


def load_tokenizer(path: str | pathlib.Path, mesh: jax.sharding.Mesh) -> image_tokens.Tokenizer:
    """The image tokenizer of a `train_tokenizer` run, its weights laid out on the mesh.

    Raises:
        UserError: the folder is not such a run, or has no checkpoint.
    """
    config = checkpoints.load_json(path, "config")
    if "multipliers" not in config.get("model", {}):
        raise errors.UserError(f"{path} is not a train_tokenizer run: give the folder of one")
    model, image_size = vqgan.from_config(config["model"]), config["data"]["image_size"]
    init = training.make_init(vqgan.init_fn(model, image_size), tx=None)
    state = checkpoints.load_state(path, training.abstract_state(init, mesh))
    return image_tokens.Tokenizer({"params": state.params, **state.variables}, model, image_size)
