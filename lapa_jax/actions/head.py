"""What every head of stage 3 is: parameters beside the VLM's, a loss, and a way to decode."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import trained
from lapa_jax.actions.inputs import Inputs
from lapa_jax.data import action_bins


@flax.struct.dataclass
class Said:
    """
    Attributes:
        actions: float32[B, horizon, A], normalised; where a head answers in ids, those of the bins, int32.
        latents: int32[B, N] that were planned on the way; None where none were.
    """

    actions: jax.Array
    latents: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Head(abc.ABC):
    """
    Attributes:
        planner: the VLM, whose parameters are `params["planner"]`; the head's own are `params["action_head"]`.
        horizon: actions a call.
        action_dim: numbers of each.
        side_dim: numbers known beside image and instruction, see `Inputs.side`.
        options: the `head` section of the config.
        bins: of each dimension, for heads that answer in ids.
    """

    plans: ClassVar[bool] = False
    """Whether latents are planned on the way."""
    tokens: ClassVar[bool] = False
    """Whether it answers in ids of bins."""

    planner: trained.Planner
    horizon: int
    action_dim: int
    side_dim: int
    options: Mapping[str, Any]
    bins: action_bins.ActionBins | None = None

    @abc.abstractmethod
    def start(self, key: jax.Array) -> Any:
        """Fresh parameters of the head."""

    @abc.abstractmethod
    def loss(self, params: Any, inputs: Inputs, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """(loss, what to log) of a batch of `loader.action_stream`."""

    @abc.abstractmethod
    def predict(self, params: Any, inputs: Inputs, key: jax.Array | None) -> Said:
        """A chunk for each row. Without a key, the same one always."""

    @property
    def features(self) -> int:
        """Width of the trunk."""
        return self.planner.model.trunk["width"]

    @property
    def num_codes(self) -> int:
        return self.planner.model.vocabs["latent"]

    def nothing(self) -> jax.Array:
        """`Inputs.side` of one row, of zeros."""
        return jnp.zeros((1, self.side_dim))
