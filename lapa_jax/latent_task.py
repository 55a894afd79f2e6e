"""Stage 2 as a task: what the VLM reads of a batch, and what it has to predict."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from lapa_jax import errors, losses, trained, vocab
from lapa_jax.data import latent_rows
from lapa_jax.models import image_encoders, laq, token_stream
from lapa_jax.models.token_stream import Tokens

LAQ = "laq"
"""Where the weights of a LAQ that labels on the way are, among the frozen ones."""


@flax.struct.dataclass
class Completed:
    """A batch with what frozen networks had to put into it.

    Attributes:
        tokens, image, text: what the VLM reads; see `vlm.LatentActionVLM.see`.
        targets: the tokens that follow.
        counts: bool[B, T], which of them are to be predicted.
    """

    tokens: Tokens
    image: jax.Array
    text: jax.Array | None
    targets: Tokens
    counts: jax.Array


@dataclasses.dataclass(frozen=True)
class LatentTask:
    """
    Attributes:
        planner: the VLM and how it is spoken to.
        rows: of the batches.
        weights: vocabulary -> weight of its cross-entropy.
        legacy: losses as official LAPA has them; see `losses.stream_cross_entropy`.
        quantizer: finds the latents of pairs of frames; None where batches have them.

    Raises:
        UserError: a weight is for tokens that the layout does not have as targets, or of a head that is not there.
    """

    planner: trained.Planner
    rows: latent_rows.Rows
    weights: Mapping[str, float]
    legacy: bool = False
    quantizer: laq.LatentActionQuantizer | None = None

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in vocab.NAMES:
                raise errors.UserError(f"loss_weights.{name}: choose among {', '.join(vocab.NAMES)}")
            if weight and not self._most(name):
                raise errors.UserError(f"loss_weights.{name}={weight}: this layout has no {name} to predict; set 0")
            if weight and name not in self.planner.model.heads:
                raise errors.UserError(f"loss_weights.{name}={weight}: add {name!r} to model.heads")

    def completed(self, variables: Any, batch: Mapping[str, jax.Array]) -> Completed:
        """What is read and what follows. Images pass through the encoder, pairs of frames through the LAQ."""
        tokens = trained.tokens_of(batch)
        targets = Tokens(batch["targets"], batch["target_kinds"], batch["segments"])
        if "pair" in batch:
            codes = self._codes(variables, batch["pair"])
            tokens, targets = (one.filled(vocab.LATENT, codes, vocab.LATENT) for one in (tokens, targets))
        image = image_encoders.looked(self.planner.encoder, variables, batch["image"])
        return Completed(tokens, image, batch.get("text"), targets, batch["loss_mask"])

    def predicted(
        self, params: Any, batch: Completed, names: tuple[str, ...] = ("latent",)
    ) -> dict[str, tuple[jax.Array, jax.Array, jax.Array]]:
        """Vocabulary -> logits float32[B, N, V], targets int[B, N], and which are any, bool[B, N].

        Heads run at the places of their targets only: elsewhere their logits count for nothing, and those of a text
        vocabulary are larger than all else.
        """
        model = self.planner.model
        hidden = model.apply({"params": params}, batch.tokens, batch.image, batch.text)
        found = {}
        for name in names:
            ids, counts = losses.wanted(
                name, batch.targets.ids, batch.targets.kinds, batch.counts, legacy=self.legacy
            )
            places, valid = token_stream.places_of(counts, self._most(name))
            at = token_stream.rows_at(hidden, places)
            logits = model.apply({"params": params}, at, name, method="logits")
            found[name] = logits, token_stream.rows_at(ids, places), valid
        return found

    def loss(self, params: Any, variables: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, Any]]:
        """Weighted cross-entropy of the tokens that count, and what to log."""
        batch = self.completed(variables, batch)
        names = tuple(name for name, weight in sorted(self.weights.items()) if weight)
        predicted = self.predicted(params, batch, names)
        loss, log = losses.weighted_cross_entropy(predicted, self.weights, per_row=self.legacy)
        log["code_accuracy"] = log.pop("latent_accuracy", jnp.float32(0.0))
        return loss, log | {"filled": jnp.mean(batch.tokens.real)}

    def _most(self, name: str) -> int:
        """Most targets of a vocabulary in a row."""
        targets = self.rows.targets
        most = targets.get(vocab.NAMES.index(name), 0)
        return most + targets[vocab.LATENT] if self.legacy and name == "text" else most

    def _codes(self, variables: Any, pair: jax.Array) -> jax.Array:
        """int32[B, E * N] of the pairs uint8[B, E, 2, h, w, 3]."""
        flat = pair.reshape(-1, *pair.shape[2:])
        found = self.quantizer.apply(variables[image_encoders.FROZEN][LAQ], flat[:, 0], flat[:, 1], method="encode")
        return found.codes.reshape(len(pair), -1)
