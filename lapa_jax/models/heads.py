"""Stage 3: from the latent actions that a VLM plans to the actions of a robot."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import vocab
from lapa_jax.models import llama, token_stream, vlm
from lapa_jax.models.token_stream import Tokens


class ActionHead(nn.Module):
    """A small MLP from the latent action tokens to a chunk of normalised actions.

    Each latent token gives its trunk features and its predicted distribution over codes.
    """

    horizon: int
    action_dim: int
    width: int = 256

    @nn.compact
    def __call__(self, hidden: jax.Array, logits: jax.Array) -> jax.Array:
        """float[B, N, D], float[B, N, K] -> float[B, horizon, action_dim]."""
        x = jnp.concatenate([llama.RMSNorm(name="norm")(hidden), nn.softmax(logits)], axis=-1)
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        x = nn.gelu(nn.Dense(self.width, name="dense_in")(x))
        x = nn.gelu(nn.Dense(self.width, name="dense_mid")(x))
        x = nn.Dense(self.horizon * self.action_dim, name="dense_out")(x)
        return x.reshape(-1, self.horizon, self.action_dim)


class LatentActionPolicy(nn.Module):
    """Stage 3: the VLM plans latent actions, the head turns them into this robot's actions."""

    planner: vlm.LatentActionVLM
    code_length: int
    horizon: int
    action_dim: int
    head_width: int = 256

    def setup(self) -> None:
        self.action_head = ActionHead(self.horizon, self.action_dim, self.head_width)

    def __call__(self, prompt: Tokens, image: jax.Array, text: jax.Array | None = None) -> jax.Array:
        """Normalised actions float[B, horizon, A] after a prompt that ends at the right, with one image a row.

        Args:
            image: one image a row, as `vlm.LatentActionVLM.see` takes E of them: [B, ...] instead of [B, E, ...].
            text: int[B, L], where the image stem wants it.
        """
        prompt, seen = self.planner.see(prompt, image[:, None], None if text is None else text[:, None])
        tokens = token_stream.concatenate(prompt, Tokens.of(self._plan(prompt, seen), vocab.LATENT))
        hidden = self.planner.features(tokens, seen)[:, -self.code_length :]
        if self.is_initializing():
            self.planner(prompt)
        return self.action_head(hidden, self.planner.logits(hidden))

    def _plan(self, prompt: Tokens, seen: jax.Array | None) -> jax.Array:
        """All latent tokens but the last, each the likeliest: int[B, N - 1]. Nothing is learned through them."""
        codes = jnp.zeros((prompt.ids.shape[0], 0), jnp.int32)
        if self.code_length == 1:
            return codes
        hidden, cache = self.planner.prefill(prompt, seen, self.code_length - 2)
        row = vlm.at_last(hidden, prompt)
        for nth in range(self.code_length - 1):
            chosen = jnp.argmax(self.planner.logits(row), axis=-1)
            codes = jnp.concatenate([codes, chosen[:, None]], axis=1)
            if nth < self.code_length - 2:
                row, cache = self.planner.step(prompt, chosen, vocab.LATENT, nth, cache)
        return codes
