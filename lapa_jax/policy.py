"""observation -> action: every transform of the input beside its inverse, all from one checkpoint."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import checkpoints, errors, sharding, trained, training
from lapa_jax.data import statistics
from lapa_jax.models import heads, image_encoders


def describe(planner: Mapping[str, Any], stats: statistics.Statistics, head: Mapping) -> dict[str, Any]:
    """The JSON-able assets that a policy's checkpoint carries; `build` and `Policy` need nothing else.

    Args:
        planner: assets of a pretrain_vlm run, see `trained.Planner.to_json`.
    """
    return {
        **planner,
        "statistics": stats.to_json(),
        "head": {"horizon": head["horizon"], "width": head["width"]},
        "action_dim": len(stats.mean),
    }


def build(assets: Mapping[str, Any]) -> heads.LatentActionPolicy:
    """The network that the assets describe."""
    planner = trained.Planner.from_json(assets)
    return heads.LatentActionPolicy(
        planner=planner.model,
        code_length=planner.layout.code_length,
        horizon=assets["head"]["horizon"],
        action_dim=assets["action_dim"],
        head_width=assets["head"]["width"],
    )


def init_fn(model: heads.LatentActionPolicy, assets: Mapping[str, Any]) -> Callable[[jax.Array], Any]:
    """key -> initial flax variables of the policy, with room for the frozen encoder of its images."""
    planner = trained.Planner.from_json(assets)
    inputs = planner.example()

    def init(key: jax.Array) -> Any:
        frozen = image_encoders.frozen(planner.encoder, key)
        return {**model.init(key, *network_inputs(planner, frozen, inputs)), **frozen}

    return init


def network_inputs(planner: trained.Planner, variables: Any, batch: Mapping[str, jax.Array]) -> tuple[Any, ...]:
    """The arguments of a `LatentActionPolicy` for a batch of prompts and images uint8[B, H, W, 3]."""
    image = image_encoders.looked(planner.encoder, variables, batch["image"])
    return trained.tokens_of(batch), image, batch.get("text")


def predict(
    model: heads.LatentActionPolicy, planner: trained.Planner, variables: Any, batch: Mapping[str, jax.Array]
) -> jax.Array:
    """Normalised actions float32[B, horizon, A] of such a batch."""
    return model.apply({"params": variables["params"]}, *network_inputs(planner, variables, batch))


def with_planner(state: training.TrainState, vlm_folder: str, scratch: bool = False) -> training.TrainState:
    """`state` with the weights of a pretrained VLM and of its image encoder; only the action head stays fresh.

    Args:
        scratch: take the encoder only, which was no part of the training.
    """
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        (state.params["planner"], state.variables),
    )
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=state.step.sharding)
    loaded = checkpoints.load_state(vlm_folder, training.TrainState(step, *abstract, None))
    state = state.replace(variables=loaded.variables)
    return state if scratch else state.replace(params={**state.params, "planner": loaded.params})


class Policy:
    """A trained policy. Deterministic.

        policy = Policy.from_checkpoint("runs/demo/finetune")
        actions = policy.infer({"image": image, "instruction": "push the red cube to the left side"})["actions"]
    """

    def __init__(self, model: heads.LatentActionPolicy, variables: Any, assets: Mapping[str, Any]) -> None:
        self.model, self.variables = model, variables
        self.planner = trained.Planner.from_json(assets)
        self.statistics = statistics.Statistics.from_json(assets["statistics"])
        self.image_size, self.horizon = self.planner.image_size, assets["head"]["horizon"]

        self._predict = jax.jit(functools.partial(predict, model, self.planner))

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
        state = checkpoints.load_state(
            folder, training.abstract_state(training.make_init(init_fn(model, assets)), mesh)
        )
        return cls(model, {"params": state.params, **state.variables}, assets)

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
        batch = self.planner.prompts(words)
        batch["image"] = np.stack([self.planner.resized(one) for one in images])
        actions = self.statistics.unnormalise(np.asarray(self._predict(self.variables, batch)))
        return {"actions": actions[0] if single else actions}
