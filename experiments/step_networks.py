"""What each program trains, as a plan needs it: loss, initial parameters and one row of a batch.

What a config leaves to the data is taken as usual there: codes and tokenizer of the LAQ and of LWM as published,
instructions of a few words, images already encoded where `model.image` is tokens. Stage 3 takes `pretrain_vlm:base`
where it is given no run of stage 2; actions are seven numbers, the last a gripper, and proprioception eight.

Programs are imported where they are needed: each defines flags, and only one may.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import action_parts
import codes_parts
import jax
import measuring
import numpy as np
from ml_collections import ConfigDict

from configs import pretrain_vlm as vlm_configs
from configs import train_tokenizer as tokenizer_configs
from lapa_jax import errors, latent_task, trained, training
from lapa_jax.actions import task as action_task
from lapa_jax.convert import towers
from lapa_jax.data import latent_rows, layouts, prompts, sequences, statistics
from lapa_jax.models import image_encoders, laq, vqgan

INSTRUCTION = "push the red block to the left"
CODE_LENGTH = 4
ACTION_DIM, PROPRIO_DIM = 7, 8


@dataclasses.dataclass(frozen=True)
class Network:
    """What differs between programs.

    Attributes:
        loss_fn, init_fn: of the train state; see `training`.
        row: name -> array of one row of a batch.
        plain: the loss of the same model without remat and with attention that can be counted.
        maintain: see `training.make_train_step`.
        filled: share of a row's places that hold a token; None where it has none.
        optimizer: keys of it; None: the config's.
    """

    loss_fn: training.LossFn
    init_fn: Callable[[jax.Array], Any]
    row: Mapping[str, np.ndarray]
    plain: training.LossFn
    maintain: training.MaintainFn | None = None
    filled: float | None = None
    optimizer: Mapping[str, Any] | None = None


def _laq(config: ConfigDict) -> Network:
    import train_laq

    if config.tower.path is not None or config.labels.weight or config.model.phase:
        raise errors.UserError("plans of stage 1 are for pairs of frames alone: no tower, labels or phase")
    model, size = laq.LatentActionQuantizer(**config.model), config.data.image_size
    frame = np.zeros((size, size, 3), np.uint8)
    losses = (train_laq.make_loss(one, **config.loss) for one in (model, measuring.plain_laq(model)))
    return Network(
        next(losses), laq.init_fn(model, size, config.data.text_length), {"frame": frame, "next_frame": frame},
        next(losses), codes_parts.make_maintain(model, config.accumulate),
    )  # fmt: skip


def _tokenizer(config: ConfigDict) -> Network:
    import train_tokenizer

    if config.tower.path is not None:
        raise errors.UserError("plans of the tokenizer are without a tower: leave out tower.path")
    model, size = vqgan.from_config(config.model.to_dict()), config.data.image_size
    loss_fn, row = train_tokenizer.make_loss(model, **config.loss), {"frame": np.zeros((size, size, 3), np.uint8)}
    maintain = codes_parts.make_maintain(model, config.accumulate)
    return Network(loss_fn, vqgan.init_fn(model, size), row, loss_fn, maintain)


def _vlm(config: ConfigDict) -> Network:
    import pretrain_vlm

    planner = _planner(config)
    rows = latent_rows.Rows.of(planner.layout, [INSTRUCTION], config.data.row_length, config.data.packed)
    task = latent_task.LatentTask(planner, rows, dict(config.loss_weights), config.layout == "official")
    row = _vlm_row(rows, config, planner.encoder)
    plain = pretrain_vlm.make_loss(measuring.plain_vlm(task))
    return Network(pretrain_vlm.make_loss(task), planner.init_fn(), row, plain, filled=_filled(row))


def _planner(config: ConfigDict) -> trained.Planner:
    """Sequences are `clean`, since `official` wants LLaMA's tokenizer: a row has some ten targets of text less."""
    encoder = _encoder(config)
    words = prompts.train_tokenizer([INSTRUCTION], config.data.text_length)
    by_word = config.model.image == "stem"
    places = words.length + 1 if by_word else encoder.num_tokens
    layout = layouts.make("clean", words, num_image_tokens=places, code_length=CODE_LENGTH, by_word=by_word)
    sizes = config.model.to_dict()
    sizes["vocabs"] = {**sizes["vocabs"], "latent": sizes["vocabs"]["latent"] or 8}
    if encoder is not None and encoder.ids:
        sizes["vocabs"]["vision"] = sizes["vocabs"]["vision"] or encoder.num_codes
    return trained.Planner.of(sizes, layout, encoder, config.data.image_size)


def _filled(row: Mapping[str, np.ndarray]) -> float:
    return float((row["segments"] > 0).mean())


def _finetune(config: ConfigDict) -> Network:
    import finetune

    told = config.vlm is not None
    planner = trained.describe_planner(config.vlm) if told else _planner(vlm_configs.get_config("base"))
    random = np.random.default_rng(0)
    sides, rows = (random.random((1000, dims), np.float32) for dims in (PROPRIO_DIM, ACTION_DIM))
    rows[:, -1] = rows[:, -1] > 0.5  # the gripper
    space = {"names": [*map(str, range(1, ACTION_DIM)), "gripper"]}
    bins = action_parts.bins_of(config.head.to_dict(), [rows], space)
    proprio = statistics.compute([sides]) if config.data.proprio else None
    planner = action_parts.tuned(config, planner)
    task = action_parts.assemble(config, planner, statistics.compute([rows]), proprio, bins, space)
    row = _action_row(task)
    losses = (finetune.make_loss(one) for one in (task, measuring.plain_vlm(task)))
    return Network(
        next(losses), task.init_fn(), row, next(losses), filled=_filled(row),
        optimizer=action_parts.optimizer(config),
    )  # fmt: skip


def _action_row(task: action_task.ActionTask) -> dict[str, np.ndarray]:
    """As `loader.action_stream` makes them."""
    prompt, size = task.planner.prompts([INSTRUCTION], task.layout), task.planner.image_size
    cameras, chunk = len(task.cameras), (task.horizon, task.action_dim)
    image = np.zeros((*([cameras] if cameras > 1 else []), size, size, 3), np.uint8)
    row = {name: leaf[0] for name, leaf in prompt.items()} | {"image": image}
    row |= {"actions": np.zeros(chunk, np.float32), "action_mask": np.ones(task.horizon, bool)}
    if task.proprio is not None:
        row["proprio"] = np.zeros(PROPRIO_DIM, np.float32)
    if task.bins is not None:
        row["action_ids"] = np.zeros(chunk, np.int32)
    return row | ({"last_image": image, "last_known": np.ones((), bool)} if task.history else {})


def _vlm_row(rows: latent_rows.Rows, config: ConfigDict, encoder: Any) -> dict[str, np.ndarray]:
    """As full as rows of these sequences are; images as ids (`data.encoded`) or as pixels."""
    size = config.data.image_size
    pixels = encoder is None or not encoder.ids
    image = np.zeros((size, size, 3), np.uint8) if pixels else np.zeros(rows.layout.num_image_tokens, np.int32)
    sequence = layouts.with_latents(rows.layout.template(INSTRUCTION), np.zeros(CODE_LENGTH, np.int32))
    example = {latent_rows.SEQUENCE: sequence, "image": image, **rows.layout.text(INSTRUCTION)}
    count = min(rows.most, rows.length // sequence.size) if rows.packed else 1
    stacked = sequences.stack([rows.together([example] * count)])
    return {name: leaf[0] for name, leaf in stacked.items()}


def _encoder(config: ConfigDict) -> image_encoders.ImageEncoder | None:
    """The published image tokenizer for tokens; of features the tower that is named."""
    size, image, path = config.data.image_size, config.model.image, config.encoder.path
    if image == "stem":
        return None
    if image == "tokens":
        spec = tokenizer_configs.get_config("base").model.to_dict()
        return image_encoders.ImageEncoder("tokenizer", spec, size, ids=True)
    if path is None:
        raise errors.UserError("model.image=features: which tower? give --config.encoder.path=FOLDER")
    spec, _ = towers.load_tower(path, config.encoder.dtype)
    return image_encoders.ImageEncoder("tower", spec, size, ids=False, pool=config.encoder.pool)


NETWORKS: Mapping[str, Callable[[ConfigDict], Network]] = {
    "train_laq": _laq, "train_tokenizer": _tokenizer, "pretrain_vlm": _vlm, "finetune": _finetune,
}  # fmt: skip


def of(program: str, config: ConfigDict) -> Network:
    """What a program trains by its config.

    Raises:
        UserError: there is no such program, or its config needs what is not there.
    """
    if program not in NETWORKS:
        raise errors.UserError(f"no plan for {program}; choose among {', '.join(NETWORKS)}")
    return NETWORKS[program](config)
