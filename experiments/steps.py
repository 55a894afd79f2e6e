"""The train step of each program as it would run, on shapes alone: no data is opened, no weight is held.

What a config leaves to the data is taken as usual there: codes and tokenizer of the LAQ and of LWM as published,
instructions of a few words, images already encoded where `model.image` is tokens.

Programs are imported where they are needed: each defines flags, and only one may.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import codes_parts
import jax
import measuring
import numpy as np
from ml_collections import ConfigDict

from configs import train_tokenizer as tokenizer_configs
from lapa_jax import errors, latent_task, optimizers, selection, sharding, trained, training
from lapa_jax.convert import towers
from lapa_jax.data import latent_rows, layouts, prompts, sequences
from lapa_jax.models import image_encoders, laq, vqgan
from lapa_jax.planning import work

INSTRUCTION = "push the red block to the left"
CODE_LENGTH = 4


@dataclasses.dataclass(frozen=True)
class Network:
    """What differs between programs.

    Attributes:
        loss_fn, init_fn: of the train state; see `training`.
        row: name -> array of one row of a batch, uint8, int32 or float32.
        plain: the loss of the same model without remat and with attention that can be counted.
        maintain: see `training.make_train_step`.
        filled: share of a row's places that hold a token; None where it has none.
    """

    loss_fn: training.LossFn
    init_fn: Callable[[jax.Array], Any]
    row: Mapping[str, np.ndarray]
    plain: training.LossFn
    maintain: training.MaintainFn | None = None
    filled: float | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """
    Attributes:
        step: jitted (state, batch) -> (state, metrics), which takes the state's memory.
        state, batch: trees of ShapeDtypeStructs with their shardings.
        network: what it trains.
        selection: which of its parameters.
    """

    step: Any
    state: training.TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    network: Network
    selection: selection.Selection


def make(program: str, config: ConfigDict, mesh: jax.sharding.Mesh) -> Step:
    """The step of a program on a mesh, whose devices may be ones that are only described.

    Raises:
        UserError: there is no such program, or its config needs what is not there.
    """
    net = network(program, config)
    tx, _ = optimizers.make(config.num_steps, **config.optimizer)
    init = training.make_init(net.init_fn, tx, config.param_dtype, config.frozen_dtype)
    step = training.make_train_step(net.loss_fn, tx, config.seed, net.maintain, accumulate=config.accumulate)
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    batch = {name: _rows(one, config.batch_size, split) for name, one in net.row.items()}
    return Step(step, training.abstract_state(init, mesh), batch, net, optimizers.of(tx).selection)


def _rows(row: np.ndarray, count: int, split: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *row.shape), row.dtype, sharding=split)


def network(program: str, config: ConfigDict) -> Network:
    """
    Raises:
        UserError: as `make`.
    """
    if program not in NETWORKS:
        raise errors.UserError(f"no plan for {program}; choose among {', '.join(NETWORKS)}")
    return NETWORKS[program](config)


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
    """Sequences are `clean`, since `official` wants LLaMA's tokenizer: a row has some ten targets of text less."""
    import pretrain_vlm

    encoder = _encoder(config)
    words = prompts.train_tokenizer([INSTRUCTION], config.data.text_length)
    by_word = config.model.image == "stem"
    places = words.length + 1 if by_word else encoder.num_tokens
    layout = layouts.make("clean", words, num_image_tokens=places, code_length=CODE_LENGTH, by_word=by_word)
    sizes = config.model.to_dict()
    sizes["vocabs"] = {**sizes["vocabs"], "latent": sizes["vocabs"]["latent"] or 8}
    if encoder is not None and encoder.ids:
        sizes["vocabs"]["vision"] = sizes["vocabs"]["vision"] or encoder.num_codes
    planner = trained.Planner.of(sizes, layout, encoder, config.data.image_size)
    rows = latent_rows.Rows.of(layout, [INSTRUCTION], config.data.row_length, config.data.packed)
    task = latent_task.LatentTask(planner, rows, dict(config.loss_weights), config.layout == "official")
    row = _vlm_row(rows, config, encoder)
    plain = pretrain_vlm.make_loss(measuring.plain_vlm(task))
    filled = float((row["segments"] > 0).mean())
    return Network(pretrain_vlm.make_loss(task), planner.init_fn(), row, plain, filled=filled)


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
    "train_laq": _laq, "train_tokenizer": _tokenizer, "pretrain_vlm": _vlm,
}  # fmt: skip


def needed(made: Step) -> work.Work:
    """What the model needs of a step: loss and gradients of what is trained, nothing computed twice."""
    trained_params, rest = made.selection.split(made.state.params)

    def loss(params: Any, rest: Any, variables: Any, batch: Any) -> Any:
        return made.network.plain(selection.join(params, rest), variables, batch, jax.random.key(0))

    return work.of(jax.grad(loss, has_aux=True), trained_params, rest, made.state.variables, made.batch)
