"""A chunk that is denoised step by step, looking at all the VLM knows (flow matching; pi0, Black et al. 2024)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lapa_jax import losses
from lapa_jax.actions import planning
from lapa_jax.actions.head import Head, Said
from lapa_jax.actions.inputs import Inputs
from lapa_jax.models import heads

LATEST = 0.999
"""Times of training lie below this: at 1 nothing is left to say."""


class ByFlow(Head):
    """From noise at time 0 to actions at time 1 in `flow_steps` steps of Euler."""

    plans = True

    def module(self) -> nn.Module:
        size = {name: self.options[name] for name in ("width", "depth")}
        return heads.FlowHead(self.horizon, self.action_dim, **size)

    def start(self, key: jax.Array) -> Any:
        noisy = jnp.zeros((1, self.horizon, self.action_dim))
        context = jnp.zeros((1, 1, self.features)), jnp.ones((1, 1), bool)
        return self.module().init(key, noisy, jnp.zeros(1), *context, self.nothing())["params"]

    def loss(self, params: Any, inputs: Inputs, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        """Squared error of the velocity at times that are more often early (pi0, appendix B).

        What the VLM knows is found once and looked at with `flow_draws` times and noises: the head is cheap.
        """
        context, known, _ = self._context(params, inputs)

        def drawn(key: jax.Array) -> jax.Array:
            return self._error(params, batch, key, context, known, inputs.side)

        return jnp.mean(jax.vmap(drawn)(jax.random.split(key, self.options["flow_draws"]))), {}

    def _error(self, params: Any, batch: Any, key: jax.Array, *said: jax.Array) -> jax.Array:
        of_time, of_noise = jax.random.split(key)
        actions = batch["actions"]
        time = LATEST * (1 - jax.random.uniform(of_time, actions.shape[:1]) ** (1 / 1.5))  # 1 - Beta(1.5, 1)
        noise = jax.random.normal(of_noise, actions.shape)
        noisy = _between(noise, actions, time[:, None, None])
        velocity = self._velocity(params, noisy, time, *said)
        return losses.action_l2(velocity, actions - noise, batch["action_mask"])

    def predict(self, params: Any, inputs: Inputs, key: jax.Array | None) -> Said:
        context, known, latents = self._context(params, inputs)
        shape, steps = (self.horizon, self.action_dim), self.options["flow_steps"]
        rows = len(inputs.side)
        if key is None:  # one noise for all rows: an answer hangs on nothing but its own row
            noise = jnp.broadcast_to(jax.random.normal(jax.random.key(0), shape), (rows, *shape))
        else:
            noise = jax.random.normal(key, (rows, *shape))

        def step(chunk: jax.Array, nth: jax.Array) -> Any:
            time = jnp.full(rows, nth / steps)
            return chunk + self._velocity(params, chunk, time, context, known, inputs.side) / steps, None

        chunk, _ = jax.lax.scan(step, noise, jnp.arange(steps))
        return Said(chunk, latents)

    def _context(self, params: Any, inputs: Inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Features of the prompt and of the latents, which of them count, and the latents."""
        count = self.planner.layout.code_length
        plan = planning.plan(self.planner.model, params["planner"], inputs.prompt, inputs.seen, count)
        context = jnp.concatenate([plan.before, plan.hidden[:, 1:]], axis=1)  # the first is the prompt's last
        known = jnp.pad(inputs.prompt.real, ((0, 0), (0, count - 1)), constant_values=True)
        return context, known, plan.ids

    def _velocity(self, params: Any, *given: jax.Array) -> jax.Array:
        return self.module().apply({"params": params["action_head"]}, *given)


def _between(noise: jax.Array, actions: jax.Array, time: jax.Array) -> jax.Array:
    return time * actions + (1 - time) * noise
