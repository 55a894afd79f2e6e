"""Heads that say a chunk of normalised actions outright."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import losses
from lapa_jax.actions import planning
from lapa_jax.actions.head import Head, Said
from lapa_jax.actions.inputs import Inputs
from lapa_jax.models import heads


class Regression(Head):
    """`said` is trained and carried out alike."""

    def module(self) -> nn.Module:
        return heads.ActionHead(self.horizon, self.action_dim, self.options["width"])

    def said(self, params: Any, inputs: Inputs) -> Said:
        raise NotImplementedError

    def loss(self, params: Any, inputs: Inputs, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        del key
        said = self.said(params, inputs).actions
        return losses.action_regression(said, batch["actions"], batch["action_mask"]), {}

    def predict(self, params: Any, inputs: Inputs, key: jax.Array | None) -> Said:
        del key
        return self.said(params, inputs)


class FromLatents(Regression):
    """An MLP on the latents that are planned: their features, and how likely each code is."""

    plans = True

    def start(self, key: jax.Array) -> Any:
        count = self.planner.layout.code_length
        hidden = jnp.zeros((1, count, self.features))
        logits = jnp.zeros((1, count, self.num_codes))
        return self.module().init(key, hidden, logits, self.nothing())["params"]

    def said(self, params: Any, inputs: Inputs) -> Said:
        count = self.planner.layout.code_length
        plan = planning.plan(self.planner.model, params["planner"], inputs.prompt, inputs.seen, count)
        head = {"params": params["action_head"]}
        return Said(self.module().apply(head, plan.hidden, plan.logits, inputs.side), plan.ids)


class FromFeatures(Regression):
    """An MLP on the trunk's features at the end of the prompt; no latent is planned."""

    def start(self, key: jax.Array) -> Any:
        return self.module().init(key, jnp.zeros((1, 1, self.features)), None, self.nothing())["params"]

    def said(self, params: Any, inputs: Inputs) -> Said:
        planner = {"params": params["planner"]}
        hidden = self.planner.model.apply(planner, inputs.prompt, inputs.seen, method="features")
        head = {"params": params["action_head"]}
        return Said(self.module().apply(head, hidden[:, -1:], None, inputs.side))


class InParallel(Regression):
    """A token for each action after the prompt; L1 (OpenVLA-OFT, Kim et al. 2025)."""

    def module(self) -> nn.Module:
        return heads.ChunkHead(self.horizon, self.action_dim, self.features, self.options["width"])

    def start(self, key: jax.Array) -> Any:
        return self.module().init(key, self.nothing(), method="start")["params"]

    def said(self, params: Any, inputs: Inputs) -> Said:
        head = {"params": params["action_head"]}
        tokens, seen = inputs.followed_by(self.module().apply(head, inputs.side, method="rows"))
        hidden = self.planner.model.apply({"params": params["planner"]}, tokens, seen, method="features")
        return Said(self.module().apply(head, hidden[:, -self.horizon :]))

    def loss(self, params: Any, inputs: Inputs, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        del key
        said = self.said(params, inputs).actions
        return losses.action_l1(said, batch["actions"], batch["action_mask"]), {}
