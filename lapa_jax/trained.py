"""Trained models by the folder of their run."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lapa_jax import checkpoints, errors, training
from lapa_jax.data import layouts, official_images, sequences, text, transforms
from lapa_jax.models import image_encoders, image_tokens, laq, vlm, vqgan
from lapa_jax.models.token_stream import Tokens


@dataclasses.dataclass(frozen=True)
class Planner:
    """A VLM that predicts latent actions, with all that stands between its tokens and pixels and words.

    Attributes:
        config: the `model` section that it was made from.
        model: the network.
        layout: how its sequences are made.
        encoder: of its images; None where it sees pixels.
        image_size: pixels of these.
        resize: how they get there, see `encoded.read_frame`.
    """

    config: Mapping[str, Any]
    model: vlm.LatentActionVLM
    layout: layouts.Layout
    encoder: image_encoders.ImageEncoder | None
    image_size: int
    resize: str = "antialias"

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        layout: layouts.Layout,
        encoder: image_encoders.ImageEncoder | None,
        image_size: int,
        resize: str = "antialias",
    ) -> "Planner":
        """Raises UserError as `vlm.from_config`."""
        model = vlm.from_config(config, layout.tokenizer.vocab_size)
        return cls(config, model, layout, encoder, image_size, resize)

    @classmethod
    def from_json(cls, assets: Mapping[str, Any]) -> "Planner":
        """What `to_json` wrote, also among other assets."""
        layout = layouts.make(tokenizer=text.from_json(assets["tokenizer"]), **assets["layout"])
        encoder = image_encoders.ImageEncoder(**assets["encoder"]) if assets["encoder"] else None
        return cls.of(assets["vlm"], layout, encoder, assets["image_size"], assets["resize"])

    def layers_apart(self, params: Mapping[str, Any]) -> tuple["Planner", dict[str, Any]]:
        """This planner and its parameters as they generate fastest, see `llama.layers_apart`."""
        model, params = vlm.layers_apart(self.model, params)
        return dataclasses.replace(self, model=model), params

    def to_json(self) -> dict[str, Any]:
        """The assets of a checkpoint, enough to make the network again."""
        return {
            "vlm": dict(self.config),
            "layout": self.layout.to_json(),
            "tokenizer": self.layout.tokenizer.to_json(),
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "image_size": self.image_size,
            "resize": self.resize,
        }

    def resized(self, image: np.ndarray) -> np.ndarray:
        """uint8[H, W, 3] as the VLM was shown its images: uint8[image_size, image_size, 3]."""
        if self.resize == "official":
            return official_images.squared(image, self.image_size)
        return transforms.resize(image, self.image_size)

    def prompts(
        self, instructions: Sequence[str], layout: layouts.Layout | None = None
    ) -> dict[str, np.ndarray]:
        """The prompts of some instructions as a batch: tokens, kinds, segments int32[B, T], and text if wanted.

        Args:
            layout: None: the planner's own.

        Raises:
            UserError: an instruction is too long.
        """
        layout = layout or self.layout
        return sequences.stack([layout.prompt(instruction) for instruction in instructions])

    def example(self) -> dict[str, np.ndarray]:
        """A batch of one prompt with an image uint8[1, H, W, 3]."""
        return {**self.prompts([""]), "image": np.zeros((1, self.image_size, self.image_size, 3), np.uint8)}

    def init_fn(self) -> Callable[[jax.Array], Any]:
        """key -> initial flax variables of the VLM, with room for the frozen encoder."""
        batch = self.example()

        def init(key: jax.Array) -> Any:
            frozen = image_encoders.frozen(self.encoder, key)
            image = image_encoders.looked(self.encoder, frozen, batch["image"])[:, None]
            words = batch["text"][:, None] if "text" in batch else None
            return {**self.model.init(key, tokens_of(batch), image, words), **frozen}

        return init


def tokens_of(batch: Mapping[str, Any]) -> Tokens:
    """The stream of a batch of `data.sequences`."""
    return Tokens(batch["tokens"], batch["kinds"], batch["segments"])


def load_planner(path: str | pathlib.Path, mesh: jax.sharding.Mesh) -> tuple[Planner, training.TrainState]:
    """The VLM of a `pretrain_vlm` run, its weights and its encoder's laid out on the mesh.

    Raises:
        UserError: the folder is not such a run, or has no checkpoint.
    """
    planner = describe_planner(path)
    init = training.make_init(planner.init_fn())
    return planner, checkpoints.load_state(path, training.abstract_state(init, mesh))


def describe_planner(path: str | pathlib.Path) -> Planner:
    """`load_planner` without weights."""
    assets = checkpoints.load_json(path, "assets")
    if "layout" not in assets or "statistics" in assets:
        raise errors.UserError(f"{path} is not a pretrain_vlm run: give the folder of one")
    return Planner.from_json(assets)


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
