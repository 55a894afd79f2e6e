"""observation -> action: every transform of the input beside its inverse, all from one checkpoint."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import checkpoints, errors, sharding, training
from lapa_jax.data import prompts, statistics, transforms
from lapa_jax.models import heads, vlm


def describe(
    pretrained: Mapping[str, Any], tokenizer: prompts.Tokenizer, stats: statistics.Statistics, head: Mapping
) -> dict[str, Any]:
    """The JSON-able assets that a policy's checkpoint carries; `build` and `Policy` need nothing else."""
    return {
        "vlm": dict(pretrained["model"]),
        "image_size": pretrained["data"]["image_size"],
        "tokenizer": tokenizer.to_json(),
        "statistics": stats.to_json(),
        "head": {"horizon": head["horizon"], "width": head["width"]},
        "action_dim": len(stats.mean),
    }


def build(assets: Mapping[str, Any]) -> heads.LatentActionPolicy:
    """The network that the assets describe."""
    tokenizer = prompts.Tokenizer.from_json(assets["tokenizer"])
    return heads.LatentActionPolicy(
        planner=vlm.from_config(assets["vlm"], tokenizer.vocab_size),
        code_length=assets["vlm"]["code_length"],
        horizon=assets["head"]["horizon"],
        action_dim=assets["action_dim"],
        head_width=assets["head"]["width"],
    )


def init_fn(model: heads.LatentActionPolicy, assets: Mapping[str, Any]) -> Callable[[jax.Array], Any]:
    """key -> initial flax variables of the policy."""
    text = jnp.ones((1, len(prompts.Tokenizer.from_json(assets["tokenizer"]).encode_blank())), jnp.int32)
    if model.planner.image_stem is None:
        image = jnp.zeros((1, model.planner.num_image_tokens), jnp.int32)
    else:
        image = jnp.zeros((1, assets["image_size"], assets["image_size"], 3), jnp.uint8)
    return lambda key: model.init(key, text, image)


def with_planner(state: training.TrainState, vlm_folder: str) -> training.TrainState:
    """`state` with the planner's weights taken from a pretrained VLM; only the action head stays fresh."""
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.params["planner"]
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=state.step.sharding)
    loaded = checkpoints.load_state(vlm_folder, training.TrainState(step, abstract, {}, None))
    return state.replace(params={**state.params, "planner": loaded.params})


class Policy:
    """A trained policy. Deterministic.

        policy = Policy.from_checkpoint("runs/demo/finetune")
        actions = policy.infer({"image": image, "instruction": "push the red cube to the left side"})["actions"]
    """

    def __init__(self, model: heads.LatentActionPolicy, params: Any, assets: Mapping[str, Any]) -> None:
        self.model, self.params = model, params
        self.tokenizer = prompts.Tokenizer.from_json(assets["tokenizer"])
        self.statistics = statistics.Statistics.from_json(assets["statistics"])
        self.image_size, self.horizon = assets["image_size"], assets["head"]["horizon"]
        self._apply = jax.jit(lambda p, t, i: model.apply({"params": p}, t, i))

    @classmethod
    def from_checkpoint(cls, folder: str | pathlib.Path) -> "Policy":
        """The latest checkpoint of a finetune run, on this process's first device.

        Raises:
            UserError: no checkpoint there, or one that is not of a policy.
        """
        assets = checkpoints.load_json(folder, "assets")
        if "statistics" not in assets:
            raise errors.UserError(f"{folder} is not a policy: give the folder of a finetune run")
        model = build(assets)
        mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
        abstract = training.abstract_state(training.make_init(init_fn(model, assets)), mesh)
        return cls(model, checkpoints.load_state(folder, abstract).params, assets)

    def infer(self, observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Actions in the dataset's own units.

        Args:
            observation: `image` uint8[H, W, 3] with `instruction` str, or `image` uint8[B, H, W, 3] with
                a list of B instructions.

        Returns:
            `actions` float32[horizon, A], or float32[B, horizon, A].

        Raises:
            UserError: an image that is not uint8 RGB, or another number of instructions.
        """
        image, instruction = np.asarray(observation["image"]), observation["instruction"]
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise errors.UserError(f"image is {image.dtype}{list(image.shape)}: give uint8[H, W, 3] RGB")
        single = image.ndim == 3
        images = image[None] if single else image
        words: Sequence[str] = [instruction] if single else instruction
        if isinstance(words, str) or len(words) != len(images):
            raise errors.UserError(f"{len(images)} images need as many instructions: give a list of them")
        images = np.stack([transforms.resize(i, self.image_size) for i in images])
        text = np.stack([self.tokenizer.encode(w) for w in words])
        actions = self.statistics.unnormalise(np.asarray(self._apply(self.params, text, images)))
        return {"actions": actions[0] if single else actions}
