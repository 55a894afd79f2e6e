"""Our network as a contestant, through the train step that all our programs use."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import losses, optimizers, training
from lapa_jax.convert import laq_names
from lapa_jax.models import laq
from lapa_jax.models.quantizers import nsvq
from laq_speed import sizes
from laq_speed.job import BETAS, CLIP_NORM, LEARNING_RATE, Job
from race import products
from race.turns import timed

_SEED = 0


def make_model(size: sizes.Sizes, **more: Any) -> laq.LatentActionQuantizer:
    """The official LAQ; `more` goes to the backbone."""
    backbone = dict(
        width=size.dim,
        depth_spatial=size.depth,
        depth_temporal=size.depth,
        num_heads=size.heads,
        head_dim=size.head_dim,
        image_size=size.image_size,
        patch_size=size.patch_size,
        legacy=True,
    )
    codes = dict(num_codes=size.num_codes, code_length=sizes.CODE_LENGTH, code_dim=size.code_dim)
    return laq.LatentActionQuantizer(
        backbone="transformer", backbone_args=backbone | more, quantizer="nsvq_official", **codes
    )


def make_label(model: laq.LatentActionQuantizer) -> Any:
    """(variables, frame, next frame) -> codes int[B, N]; not jitted."""
    return lambda variables, *pair: model.apply(variables, *pair, method="encode").codes


def make_step(model: laq.LatentActionQuantizer) -> tuple[Any, Any]:
    """(train step, optimizer)."""

    def loss_fn(params: Any, variables: Any, batch: Any, key: jax.Array) -> Any:
        frame, target = batch
        out = model.apply({"params": params, **variables}, frame, target, train=True, rngs={"noise": key})
        return losses.reconstruction(out.reconstruction, target, frame), ({}, variables)

    b1, b2 = BETAS
    rate = dict(learning_rate=LEARNING_RATE, end_learning_rate=LEARNING_RATE)
    tx, _ = optimizers.make(num_steps=1, **rate, b1=b1, b2=b2, clip_norm=CLIP_NORM)
    return training.make_train_step(loss_fn, tx, _SEED), tx


class Ours:
    def __init__(self, job: Job) -> None:
        self.job, self.model = job, make_model(job.sizes)
        self.batch = tuple(jnp.asarray(frames) for frames in sizes.batch(job.sizes, job.batch))
        with np.load(job.weights) as state:
            body, codebook = laq_names.from_official({key: state[key] for key in state.files})
        params = jax.tree.map(jnp.array, {"body": body, "quantize": {"codebook": codebook}})
        init = training.make_init(laq.init_fn(self.model, job.sizes.image_size))
        shapes = jax.eval_shape(init, jax.random.key(0))
        variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.variables)
        step, tx = make_step(self.model)
        self.state = training.TrainState(jnp.int32(0), params, variables, jax.jit(tx.init)(params))
        self._run = step.lower(self.state, self.batch).compile()
        self._label = jax.jit(make_label(self.model)).lower(self._variables(), *self.batch).compile()

    def codes(self) -> np.ndarray:
        """int[B, N]."""
        return np.asarray(self._label(self._variables(), *self.batch))

    def noise(self, steps: int) -> np.ndarray:
        """What the next steps will draw: float32[steps, B, N, D]."""
        shape = (self.job.batch, sizes.CODE_LENGTH, self.job.sizes.code_dim)

        def draw(model: laq.LatentActionQuantizer) -> jax.Array:
            return nsvq.standard_normal(model.quantize.make_rng("noise"), shape)

        keys = [jax.random.fold_in(jax.random.key(_SEED), int(self.state.step) + i) for i in range(steps)]
        apply = functools.partial(self.model.apply, self._variables(), method=draw)
        return np.stack([apply(rngs={"noise": key}) for key in keys])

    def losses(self, steps: int) -> list[tuple[float, float]]:
        """(loss, gradient norm) of as many training steps."""
        found = (self._step() for _ in range(steps))
        return [(float(one["loss"]), float(one["grad_norm"])) for one in found]

    def train(self, steps: int) -> tuple[float, float]:
        return timed(lambda: float(self._step()["loss"]), steps)

    def label(self, steps: int) -> tuple[float, float]:
        return timed(self.codes, steps)

    def product(self) -> float:
        return products.by_jax()

    def about(self) -> dict[str, Any]:
        return {"jax": jax.__version__}

    def _variables(self) -> dict[str, Any]:
        return {"params": self.state.params, **self.state.variables}

    def _step(self) -> dict[str, jax.Array]:
        self.state, metrics = self._run(self.state, self.batch)
        return metrics
