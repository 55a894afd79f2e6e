"""What a LAQ may be made with beside video: a frozen tower, instructions, an earlier phase, a few actions."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import codes_parts
from ml_collections import ConfigDict

from lapa_jax import checkpoints, errors, training
from lapa_jax.convert import towers
from lapa_jax.data import episodes, loader, prompts, sources, statistics, streams


@dataclasses.dataclass(frozen=True)
class Parts:
    """What `prepare` found.

    Attributes:
        tower: weights of the frozen tower; None without one.
        tokenizer: of the instructions; None where they are not read.
        earlier: folder of the run of phase "scene", whose weights phase "task" starts from.
        assets: what the checkpoint must carry beside its config.
    """

    tower: Any = None
    tokenizer: prompts.Tokenizer | None = None
    earlier: str | None = None
    assets: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def prepare(config: ConfigDict, video: episodes.Mixture) -> Parts:
    """Opens the parts that a config names, and completes the config by what they say.

    Raises:
        UserError: a part is missing, or one is named that the model does not use.
    """
    parts = Parts()
    if config.loss.perceptual and config.model.target != "pixels":
        raise errors.UserError("loss.perceptual is for rebuilt pixels; model.target=features has none")
    if config.tower.path is not None:
        spec, weights = towers.load_tower(config.tower.path, config.tower.dtype)
        config.model.tower = ConfigDict(spec)
        parts = dataclasses.replace(parts, tower=weights)
    elif config.loss.perceptual:
        raise errors.UserError("loss.perceptual needs a tower: give --config.tower.path of one")
    if config.model.phase == "scene":
        tokenizer = prompts.train_tokenizer(video.instructions, config.data.text_length)
        config.model.text_vocab = tokenizer.vocab_size
        parts = dataclasses.replace(parts, tokenizer=tokenizer, assets={"tokenizer": tokenizer.to_json()})
    if config.model.phase == "task":
        parts = dataclasses.replace(parts, **_earlier(config))
    elif config.earlier is not None:
        raise errors.UserError('config.earlier is for model.phase="task", which starts from a run of phase "scene"')
    return parts


def _earlier(config: ConfigDict) -> dict[str, Any]:
    """The run of phase "scene", which must be of the same sizes; what it has learned is frozen."""
    if config.earlier is None:
        raise errors.UserError('model.phase=task starts from a run of phase "scene": give --config.earlier=FOLDER')
    found = checkpoints.load_json(config.earlier, "config")
    if found.get("model", {}).get("phase") != "scene":
        raise errors.UserError(f'{config.earlier} is no train_laq run with model.phase="scene"')
    config.model.text_vocab = found["model"]["text_vocab"]
    config.data.text_length = found["data"]["text_length"]
    ours = json.loads(json.dumps(config.model.to_dict()))
    for key, theirs in found["model"].items():
        if key != "phase" and ours.get(key) != theirs:
            raise errors.UserError(f"model.{key} is {ours.get(key)!r}, and was {theirs!r} in {config.earlier}")
    given = [config.optimizer.frozen] if config.optimizer.frozen else []
    config.optimizer.frozen = "|".join([*given, "quantize_scene", "text_tokens"])
    return dict(earlier=config.earlier)


def batches(config: ConfigDict, video: episodes.Mixture, parts: Parts, **shares: int) -> Any:
    """The stream of training: pairs, with instructions or labelled pairs where the config wants them."""
    data, gap = config.data, sources.gap_of(config.data)
    common = sources.reading(data) | shares
    pairs = loader.frame_pairs(
        video, gap, config.batch_size, config.seed, data.image_size, tokenizer=parts.tokenizer, **common
    )
    if not config.labels.weight:
        return pairs
    if data.mixture is not None:
        raise errors.UserError("labels.weight: actions of a mixture have no common meaning; train on one dataset")
    robot = sources.open_episodes(data.directory, data.train_split, "robot", data)
    few, _ = robot.divided(config.labels.episodes)
    stats = statistics.cached(few, "action", config.labels.normalisation, data.cache)
    config.model.action_dim = few["action"][0].shape[-1]
    labelled = loader.frame_pairs(
        few, gap, config.labels.batch_size, config.seed, data.image_size, statistics=stats, **common
    )
    return streams.Zipped({"": pairs, "labelled_": labelled})


def fill(state: training.TrainState, abstract: training.TrainState, parts: Parts) -> training.TrainState:
    """A fresh state with the weights of the tower, or of the earlier phase, in their places."""
    if parts.earlier is not None:
        found = checkpoints.load_state(parts.earlier, abstract)
        state = state.replace(params=found.params, variables=found.variables)
    return codes_parts.with_tower(state, abstract, parts.tower)
