"""Our network as a contestant, with the weights of the other one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import sharding, training, vocab
from lapa_jax.convert import hugging_face_text
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens
from race import products
from race.turns import timed
from vlm_speed import network, sizes
from vlm_speed.job import BATCHES, Job


class Ours:
    def __init__(self, job: Job) -> None:
        text, params = hugging_face_text.load(job.weights, sharding.make_mesh())
        self.model = hugging_face_text.model_of(text)
        params = jax.tree.map(jnp.array, params)  # without a mesh, as one device needs none
        self.rows = jnp.asarray(sizes.rows(job.sizes, job.rows))
        self.prompts = {count: jnp.asarray(sizes.prompts(job.sizes, count)) for count in BATCHES}
        apart, mine = vlm.layers_apart(self.model, params)
        self._params_apart = jax.tree.map(jnp.copy, mine)  # training overwrites the others
        self._generate = {
            count: network.make_generate(apart).lower(self._params_apart, prompts).compile()
            for count, prompts in self.prompts.items()
        }
        step, tx = network.make_step(self.model)
        latents, _ = network.make_step(self.model, sizes.CODES)
        self.state = training.TrainState(jnp.int32(0), params, {}, jax.jit(tx.init)(params))
        self._steps = {
            name: one.lower(self.state, self.rows).compile()
            for name, one in (("train", step), ("train_latents", latents))
        }

    def about(self) -> dict[str, Any]:
        return {"jax": jax.__version__}

    def logits(self) -> np.ndarray:
        """float32[prompt, V] of the first prompt."""
        tokens = Tokens.of(self.prompts[1], vocab.TEXT)
        variables = {"params": self.state.params}
        hidden = self.model.apply(variables, tokens)
        return np.asarray(self.model.apply(variables, hidden[0], "text", method="logits"))

    def generate(self, count: int) -> np.ndarray:
        """int[count, CODES], the likeliest after each prompt, by the weights before any training."""
        return np.asarray(self._generate[count](self._params_apart, self.prompts[count]))

    def losses(self, steps: int) -> list[tuple[float, float]]:
        """(loss, gradient norm) of training steps."""
        found = (self._step("train") for _ in range(steps))
        return [(float(one["loss"]), float(one["grad_norm"])) for one in found]

    def train(self, steps: int) -> tuple[float, float]:
        return timed(lambda: float(self._step("train")["loss"]), steps)

    def train_latents(self, steps: int) -> tuple[float, float]:
        return timed(lambda: float(self._step("train_latents")["loss"]), steps)

    def generate_1(self, steps: int) -> tuple[float, float]:
        return timed(lambda: self.generate(1), steps)

    def generate_16(self, steps: int) -> tuple[float, float]:
        return timed(lambda: self.generate(16), steps)

    def product(self) -> float:
        return products.by_jax()

    def _step(self, name: str) -> dict[str, jax.Array]:
        self.state, metrics = self._steps[name](self.state, self.rows)
        return metrics
