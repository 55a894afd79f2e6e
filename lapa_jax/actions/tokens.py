"""Actions as tokens of bins, one a dimension, as the paper finetunes (LAPA, section 3.3)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import generate, losses, vocab
from lapa_jax.actions.head import Head, Said
from lapa_jax.actions.inputs import Inputs
from lapa_jax.models import heads, token_stream
from lapa_jax.models.token_stream import Tokens

DRAWN = generate.Sampling(temperature=1.0, top_k=50)
"""How the official sampler draws, always; here only where one asks for it."""


class AsTokens(Head):
    """Cross-entropy of the ids of bins after the prompt; the table and the head are the VLM's own."""

    tokens = True

    def module(self) -> nn.Module:
        return heads.SideToken(self.features)

    def start(self, key: jax.Array) -> Any:
        return dict(self.module().init(key, self.nothing()).get("params", {}))

    def loss(self, params: Any, inputs: Inputs, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        del key
        ids, mask = batch["action_ids"], batch["action_mask"]
        ids = ids.reshape(len(ids), -1)
        prompt, seen = self._prompt(params, inputs)
        tokens = token_stream.concatenate(prompt, Tokens.of(ids[:, :-1], vocab.ACTION))
        planner = {"params": params["planner"]}
        hidden = self.planner.model.apply(planner, tokens, seen, method="features")[:, -ids.shape[1] :]
        logits = self.planner.model.apply(planner, hidden, "action", method="logits")
        logits = jnp.where(self._allowed(), logits, -jnp.inf)
        counts = jnp.repeat(mask, self.action_dim, axis=1)
        loss, accuracy = losses.masked_cross_entropy(logits, ids, counts)
        return loss, {"bin_accuracy": accuracy}

    def predict(self, params: Any, inputs: Inputs, key: jax.Array | None) -> Said:
        prompt, seen = self._prompt(params, inputs)
        found = generate.continued(
            self.planner.model, {"params": params["planner"]}, prompt, seen, name="action",
            count=self.horizon * self.action_dim, sampling=generate.GREEDY if key is None else DRAWN, key=key,
            allowed=self._allowed(),
        )  # fmt: skip
        return Said(found.ids.reshape(-1, self.horizon, self.action_dim))

    def _prompt(self, params: Any, inputs: Inputs) -> tuple[Tokens, jax.Array | None]:
        rows = self.module().apply({"params": params.get("action_head", {})}, inputs.side)
        return inputs.followed_by(rows)

    def _allowed(self) -> jax.Array:
        """bool[horizon * A, V]: ids that are a bin of their dimension."""
        possible = np.arange(self.planner.model.vocabs["action"]) < self.bins.counts[:, None]
        return jnp.asarray(np.tile(possible, (self.horizon, 1)))
