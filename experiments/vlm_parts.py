"""What stage 2 is made with beside video: a tokenizer, a frozen image encoder, latent actions, a layout."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import encoders
import jax
import numpy as np
import starts
from ml_collections import ConfigDict

from lapa_jax import errors, latent_task, trained, training
from lapa_jax.data import encoded as encoded_lib
from lapa_jax.data import (
    episodes,
    gaps,
    latent_examples,
    latent_rows,
    latents,
    layouts,
    loader,
    prompts,
    sources,
    text,
)
from lapa_jax.evaluation import vlm_quality
from lapa_jax.evaluation.judge import pairs
from lapa_jax.models import image_encoders, laq

FROZEN = image_encoders.FROZEN


@dataclasses.dataclass(frozen=True)
class Parts:
    """What `prepare` found.

    Attributes:
        task: the VLM, its rows and its loss.
        frozen: weights of frozen networks, by their name among the variables.
        labels: of each dataset, or how they are found.
        origin: what the latents were made by.
        encoder: what encodes images, as JSON; None where nothing does.
        start: where parameters begin; None: at random.
    """

    task: latent_task.LatentTask
    frozen: Mapping[str, Any]
    labels: list[latents.Latents] | latent_examples.Follow
    origin: Mapping[str, Any]
    encoder: Mapping[str, Any] | None
    start: starts.Start | None

    @property
    def planner(self) -> trained.Planner:
        return self.task.planner

    def init_fn(self) -> Callable[[jax.Array], Any]:
        """key -> initial variables, with room for all frozen networks."""
        plain, quantizer = self.planner.init_fn(), self.task.quantizer

        def init(key: jax.Array) -> Any:
            variables = dict(plain(key))
            if quantizer is not None:
                more = {latent_task.LAQ: laq.init_fn(quantizer, self.labels.image_size)(key)}
                variables[FROZEN] = {**variables.get(FROZEN, {}), **more}
            return variables

        return init

    def begin(self, abstract: Any, new: str, ignore: str) -> dict[str, jax.Array]:
        """Parameters that do not begin at random; see `starts.Start.parameters`."""
        return {} if self.start is None else self.start.parameters(abstract, new, ignore)

    def fill(self, state: training.TrainState, abstract: training.TrainState) -> training.TrainState:
        """A fresh state with the weights of the frozen networks in their places."""
        if not self.frozen:
            return state
        layout = jax.tree.map(lambda leaf: leaf.sharding, abstract.variables[FROZEN])
        return state.replace(variables={**state.variables, FROZEN: jax.device_put(dict(self.frozen), layout)})


def prepare(config: ConfigDict, video: episodes.Mixture, mesh: jax.sharding.Mesh) -> Parts:
    """Opens the parts that a config names, and completes `config.model` by what they say.

    Raises:
        UserError: a part is missing, does not fit the others, or one is named that nothing uses.
    """
    data, model = config.data, config.model
    if model.lora.rank and not (config.optimizer.trainable or config.optimizer.frozen):
        raise errors.UserError(
            f"model.lora.rank={model.lora.rank} beside a network that is trained whole: say what is trained, "
            'as with --config.optimizer.trainable="lora_|latent"'
        )
    labels, code_length, num_codes, origin, quantizer, weights = _labels(data, data.train_split, video, mesh)
    start = starts.open_start(config.init.path, config.init.num_heads)
    if start is not None:
        start.complete(model, config.init.ignore)
    words = _tokenizer(config, video.instructions, start)
    model.vocabs.latent = _table("latent", model.vocabs.latent, num_codes)
    found = load_encoder(config, mesh)
    encoder = None if found is None else found.encoder
    frozen = {} if found is None else {image_encoders.NAME: found.variables}
    if encoder is not None and encoder.ids:
        model.vocabs.vision = _table("vision", model.vocabs.vision, encoder.num_codes)
    by_word = model.image == "stem"
    places = words.length + 1 if by_word else encoder.num_tokens
    layout = layouts.make(
        config.layout, words, num_image_tokens=places, code_length=code_length, by_word=by_word
    )
    planner = trained.Planner.of(model.to_dict(), layout, encoder, data.image_size, config.encoder.resize)
    rows = latent_rows.Rows.of(
        layout, set(video.instructions), data.row_length, data.packed, latents_follow=quantizer is not None
    )
    task = latent_task.LatentTask(planner, rows, dict(config.loss_weights), config.layout == "official", quantizer)
    frozen |= {} if quantizer is None else {latent_task.LAQ: weights}
    return Parts(task, frozen, labels, origin, None if found is None else found.provenance, start)


def _tokenizer(config: ConfigDict, instructions: tuple[str, ...], start: starts.Start | None) -> prompts.Text:
    """The one that is named, else the one that parameters came with, else the words of the instructions."""
    path, length = config.text.path, config.data.text_length
    if path is not None or start is None:
        words = text.open_text(path, instructions, length)
    else:
        words = start.own_text(instructions, length, config.init.ignore)
    if start is not None:
        starts.check_text(start, words, config.init.ignore)
    return words


def _table(name: str, rows: int, needed: int) -> int:
    """Rows of a vocabulary's table: as many as the config says, or as are needed."""
    if rows and rows < needed:
        raise errors.UserError(f"model.vocabs.{name}={rows} is less than the {needed} that there are")
    return rows or needed


def _labels(data: Any, split: str, video: episodes.Mixture, mesh: jax.sharding.Mesh) -> tuple[Any, ...]:
    """(labels, code length, number of codes, what made them, LAQ, its weights); the last two if made later.
    """
    if (data.latents is None) == (data.laq is None):
        raise errors.UserError(
            "which latent actions? give --config.data.latents=FOLDER of a label_latents run, or "
            "--config.data.laq=FOLDER of a train_laq run to label on the way"
        )
    if data.latents is not None:
        labels = open_labels(data.latents, split, video)
        one = labels[0]
        return labels, one.code_length, one.num_codes, dict(one.provenance.checkpoint), None, None
    model, state, found = trained.load_laq(data.laq, mesh)
    if not model.discrete or model.phase == "scene":
        raise errors.UserError(f"{data.laq} has no codes to predict: give a discrete LAQ, not of phase scene")
    gap = gaps.Gap(found["data"]["gap"], found["data"]["longest_gap"], found["data"]["past_end"])
    follow = latent_examples.Follow(gap, found["data"]["image_size"])
    origin = {"path": str(pathlib.Path(data.laq)), "step": int(state.step)}
    variables = {"params": state.params, **state.variables}
    return follow, model.code_length, model.num_codes, origin, model, variables


def open_labels(root: str, split: str, video: episodes.Mixture) -> list[latents.Latents]:
    """The latent actions of the pairs of a split, one a dataset."""
    folders = [latents.folder(root, split, video, i) for i in range(len(video.members))]
    return [latents.open_latents(*pair) for pair in zip(folders, video.members, strict=True)]


def load_encoder(config: ConfigDict, mesh: jax.sharding.Mesh) -> encoders.Loaded | None:
    """The frozen encoder at `encoder.path`, as `model.image` wants it.

    Raises:
        UserError: none is given where one is needed, or the other way round, or it gives something else.
    """
    image, path, data = config.model.image, config.encoder.path, config.data
    if image == "stem":
        if path is not None or data.encoded is not None:
            raise errors.UserError("encoder.path is for model.image=tokens or features; the stem sees pixels")
        return None
    if path is None:
        raise errors.UserError(f"model.image={image} needs a frozen encoder: give --config.encoder.path=FOLDER")
    encoded_lib.check_decoded(config.encoder.resize, data.decode_once)
    encoded_lib.check_choices(data.image_size, config.encoder.resize)
    return encoders.load(path, mesh, data.image_size, image == "tokens", config.encoder.pool, config.encoder.dtype)


def open_encoded(
    config: ConfigDict, split: str, video: episodes.Mixture, parts: Parts
) -> list[encoded_lib.Encoded] | None:
    """What the encoder gave for each frame of a split, one a dataset; None where that is found on the way.

    Raises:
        UserError: it is of another encoder, or was shown frames of another size.
    """
    root = config.data.encoded
    if root is None:
        return None
    found = []
    for i, member in enumerate(video.members):
        folder = encoded_lib.folder(root, split, video, i)
        found.append(encoded_lib.open_encoded(folder, member, parts.encoder))
        theirs, ours = (found[-1].resize, config.encoder.resize)
        if theirs != ours:
            raise errors.UserError(f"{folder} was shown frames resized {theirs!r}, and encoder.resize is {ours!r}")
    return found


def stream(config: ConfigDict, video: episodes.Mixture, parts: Parts, **shares: int) -> Any:
    """The batches of training."""
    data, encoded = config.data, open_encoded(config, config.data.train_split, video, parts)
    seen = video.decoded(data.image_size) if data.decode_once and encoded is None else video
    return loader.latent_stream(
        seen, parts.labels, parts.task.rows, config.batch_size, config.seed, data.image_size,
        data.blank_instruction_rate, encoded=encoded, resize=config.encoder.resize,
        **sources.reading(data), **shares,
    )


def held_out(
    config: ConfigDict, video: episodes.Mixture, parts: Parts
) -> tuple[latent_task.LatentTask, dict[str, vlm_quality.Streams]]:
    """The task with one sequence a row, and the held-out batches of each dataset."""
    data, task = config.data, parts.task
    follow = isinstance(parts.labels, latent_examples.Follow)
    labels = [parts.labels] * len(video.members) if follow else open_labels(data.latents, data.val_split, video)
    encoded = open_encoded(config, data.val_split, video, parts) or [None] * len(video.members)
    rows = latent_rows.Rows.of(task.planner.layout, set(video.instructions), latents_follow=follow)

    def of(member: episodes.Episodes, codes: Any, cache: Any) -> vlm_quality.Streams:
        def batches(blank_rate: float) -> Iterable[Mapping[str, np.ndarray]]:
            return loader.latent_stream(
                member, codes, rows, config.batch_size, config.seed, data.image_size, blank_rate,
                encoded=None if cache is None else [cache], resize=config.encoder.resize, repeat=False,
            )

        return batches

    each = zip(pairs.names(video), video.members, labels, encoded, strict=True)
    streams = {name: of(*rest) for name, *rest in each}
    return dataclasses.replace(task, rows=rows), streams
