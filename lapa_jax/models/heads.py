"""Stage 3: from what a VLM knows to a chunk of a robot's actions. Networks only; `lapa_jax.actions` trains them."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax.models import llama


class ActionHead(nn.Module):
    """A small MLP from some places of the trunk to a chunk of normalised actions."""

    horizon: int
    action_dim: int
    width: int = 256

    @nn.compact
    def __call__(self, hidden: jax.Array, logits: jax.Array | None, side: jax.Array) -> jax.Array:
        """
        Args:
            hidden: float[B, N, D], the trunk's features there.
            logits: float[B, N, K] of the latents predicted there; None where none are.
            side: float[B, S], what is known beside image and instruction.

        Returns:
            float32[B, horizon, action_dim].
        """
        x = llama.RMSNorm(name="norm")(hidden)
        x = x if logits is None else jnp.concatenate([x, nn.softmax(logits)], axis=-1)
        x = jnp.concatenate([x.reshape(x.shape[0], -1).astype(jnp.float32), side], axis=-1)
        x = nn.gelu(nn.Dense(self.width, name="dense_in")(x))
        x = nn.gelu(nn.Dense(self.width, name="dense_mid")(x))
        x = nn.Dense(self.horizon * self.action_dim, name="dense_out")(x)
        return x.reshape(-1, self.horizon, self.action_dim)


class SideToken(nn.Module):
    """What is known beside image and instruction, as one more token of the trunk; no token where nothing is."""

    features: int

    @nn.compact
    def __call__(self, side: jax.Array) -> jax.Array:
        """float[B, S] -> float[B, 1, features], or float[B, 0, features] where S is 0."""
        if not side.shape[-1]:
            return jnp.zeros((side.shape[0], 0, self.features), side.dtype)
        return nn.Dense(self.features, name="dense_side")(side)[:, None]


class ChunkHead(nn.Module):
    """A token for each action of a chunk, so that the trunk decodes all at once (OpenVLA-OFT, Kim et al. 2025).

    There the tokens see each other both ways; here each sees those of earlier actions, as the trunk is causal.
    """

    horizon: int
    action_dim: int
    features: int
    width: int = 256

    def setup(self) -> None:
        init = nn.initializers.normal(self.features**-0.5)
        self.query_embedding = self.param("query_embedding", init, (self.horizon, self.features))
        self.token = SideToken(self.features)
        self.norm = llama.RMSNorm()
        self.dense_in, self.dense_mid = nn.Dense(self.width), nn.Dense(self.width)
        self.dense_out = nn.Dense(self.action_dim)

    def rows(self, side: jax.Array) -> jax.Array:
        """float[B, S] -> float[B, R, features], tokens that follow the prompt; the last `horizon` are actions'."""
        queries = jnp.broadcast_to(self.query_embedding, (side.shape[0], *self.query_embedding.shape))
        return jnp.concatenate([self.token(side), queries], axis=1)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """float[B, horizon, features] of the trunk at the actions' tokens -> float32[B, horizon, action_dim]."""
        x = self.norm(hidden).astype(jnp.float32)
        return self.dense_out(nn.gelu(self.dense_mid(nn.gelu(self.dense_in(x)))))

    def start(self, side: jax.Array) -> jax.Array:
        """Everything once, for initialisation."""
        return self(self.rows(side)[:, -self.horizon :])


class FlowHead(nn.Module):
    """The velocity of a chunk on its way from noise to actions (flow matching, Lipman et al. 2023).

    A small transformer over the chunk that looks at the trunk's features; time and `side` scale and shift it.
    """

    horizon: int
    action_dim: int
    width: int = 256
    depth: int = 2
    num_heads: int = 4

    @nn.compact
    def __call__(
        self, noisy: jax.Array, time: jax.Array, context: jax.Array, known: jax.Array, side: jax.Array
    ) -> jax.Array:
        """
        Args:
            noisy: float[B, horizon, A]. time: float[B] in [0, 1], 0 for noise.
            context: float[B, C, D], features of the trunk, and which of them count, `known` bool[B, C].
            side: float[B, S].

        Returns:
            float32[B, horizon, A].
        """
        place = self.param("place_embedding", nn.initializers.normal(0.02), (self.horizon, self.width))
        x = nn.Dense(self.width, name="dense_action")(noisy) + place
        said = jnp.concatenate([waves(time, self.width), side], axis=-1)
        said = nn.silu(nn.Dense(self.width, name="dense_said")(said))
        context = llama.RMSNorm(name="norm_context")(context).astype(jnp.float32)
        context = nn.Dense(self.width, name="dense_context")(context)
        for nth in range(self.depth):
            x = FlowBlock(self.num_heads, name=f"block_{nth}")(x, said, context, known)
        return nn.Dense(self.action_dim, name="dense_out")(llama.RMSNorm(name="norm")(x))


class FlowBlock(nn.Module):
    """Attention within the chunk, attention to the context, feed-forward; each on a scaled and shifted norm."""

    num_heads: int

    @nn.compact
    def __call__(self, x: jax.Array, said: jax.Array, context: jax.Array, known: jax.Array) -> jax.Array:
        width = x.shape[-1]
        everyone = jnp.ones(x.shape[:2], bool)
        x += self._attend(self._shifted(x, said, "own"), None, everyone, "own")
        x += self._attend(self._shifted(x, said, "context"), context, known, "context")
        y = nn.gelu(nn.Dense(2 * width, name="dense_up")(self._shifted(x, said, "ff")))
        return x + nn.Dense(width, name="dense_down")(y)

    def _shifted(self, x: jax.Array, said: jax.Array, name: str) -> jax.Array:
        scale, shift = jnp.split(nn.Dense(2 * x.shape[-1], name=f"film_{name}")(said)[:, None], 2, axis=-1)
        return llama.RMSNorm(name=f"norm_{name}")(x) * (1 + scale) + shift

    def _attend(self, x: jax.Array, to: jax.Array | None, seen: jax.Array, name: str) -> jax.Array:
        """float[B, H, W] looks at float[B, C, W] (None: at itself), where `seen` bool[B, C]."""
        to, width = x if to is None else to, x.shape[-1]
        q = nn.Dense(width, name=f"dense_q_{name}")(x)
        k, v = jnp.split(nn.Dense(2 * width, name=f"dense_kv_{name}")(to), 2, axis=-1)
        q, k, v = (one.reshape(*one.shape[:2], self.num_heads, -1) for one in (q, k, v))
        out = jax.nn.dot_product_attention(q, k, v, mask=seen[:, None, None])
        return nn.Dense(width, name=f"dense_out_{name}")(out.reshape(x.shape))


def waves(time: jax.Array, width: int) -> jax.Array:
    """float[B] in [0, 1] -> float[B, width]: sines and cosines, from one period in 4 to one in 4/1000."""
    periods = 4.0 * 1e-3 ** jnp.linspace(0, 1, width // 2)
    turn = 2 * jnp.pi * time[:, None] / periods
    return jnp.concatenate([jnp.sin(turn), jnp.cos(turn)], axis=-1)
