"""The train step of stage 2 as `pretrain_vlm` makes it, on shapes alone: no weight and no row is ever held."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lapa_jax import latent_task, optimizers, sharding, trained, training
from lapa_jax.data import latent_rows, layouts, prompts, sequences
from lapa_jax.models import image_encoders
from step_memory.cases import Case

sys.path.append(str(Path(__file__).resolve().parents[2] / "experiments"))

from configs import pretrain_vlm as pretrain_configs  # noqa: E402
from configs import train_tokenizer as tokenizer_configs  # noqa: E402

INSTRUCTION = "push the red block to the left"
CODE_LENGTH = 4


class Program(NamedTuple):
    """
    Attributes:
        step: jitted (state, batch) -> (state, metrics), which takes the state's memory.
        state, batch: trees of ShapeDtypeStructs with their shardings.
    """

    step: Any
    state: training.TrainState
    batch: dict[str, jax.ShapeDtypeStruct]


def make(case: Case, size: str, mesh: jax.sharding.Mesh) -> Program:
    """The step of a case on a mesh, whose devices may be ones that are only described.

    Args:
        size: of the trunk, a key of `llama.SIZES`.
    """
    import pretrain_vlm  # here, since it defines flags: ours have been read

    config = config_of(case, size)
    task = _task(config)
    tx, _ = optimizers.make(config.num_steps, **config.optimizer)
    init = training.make_init(task.planner.init_fn(), tx, config.param_dtype, config.frozen_dtype)
    step = training.make_train_step(pretrain_vlm.make_loss(task), tx, config.seed, accumulate=config.accumulate)
    return Program(step, training.abstract_state(init, mesh), _batch(task.rows, config.batch_size, mesh))


def config_of(case: Case, size: str) -> ConfigDict:
    """As the command line of `pretrain_vlm` makes it."""
    config = pretrain_configs.get_config(case.size)
    config.lock()
    config.update_from_flattened_dict({"model.size": size, **case.changes})
    return config


def _task(config: ConfigDict) -> latent_task.LatentTask:
    """As `vlm_parts.prepare` makes it from data, with the published image tokenizer's sizes.

    Sequences are `clean`, since `official` wants LLaMA's tokenizer: a row has some ten targets of text less.
    """
    encoder = _encoder(config.data.image_size)
    words = prompts.train_tokenizer([INSTRUCTION], config.data.text_length)
    layout = layouts.make("clean", words, num_image_tokens=encoder.num_tokens, code_length=CODE_LENGTH)
    planner = trained.Planner.of(config.model.to_dict(), layout, encoder, config.data.image_size)
    rows = latent_rows.Rows.of(layout, [INSTRUCTION], config.data.row_length, config.data.packed)
    return latent_task.LatentTask(planner, rows, dict(config.loss_weights), config.layout == "official")


def _encoder(image_size: int) -> image_encoders.ImageEncoder:
    spec = tokenizer_configs.get_config("base").model.to_dict()
    return image_encoders.ImageEncoder("tokenizer", spec, image_size, ids=True)


def _batch(rows: latent_rows.Rows, count: int, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """So many rows whose images come as ids (`data.encoded`)."""
    sequence = layouts.with_latents(rows.layout.template(INSTRUCTION), np.zeros(CODE_LENGTH, np.int32))
    image = np.zeros(rows.layout.num_image_tokens, np.int32)
    one = sequences.stack([rows.together([{latent_rows.SEQUENCE: sequence, "image": image}])])
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    return {
        name: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype, sharding=split)
        for name, leaf in one.items()
    }
