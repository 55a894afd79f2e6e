"""Our trunk over text alone: its train step, through what all our programs use, and its generation."""

from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax import generate, losses, optimizers, training, vocab
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens
from vlm_speed import sizes
from vlm_speed.job import BETAS, CLIP_NORM, LEARNING_RATE


def make_model(size: sizes.Sizes, dtype: Any = jnp.float32, **trunk: Any) -> vlm.LatentActionVLM:
    return vlm.LatentActionVLM(vocabs={"text": size.vocab}, heads=("text",), trunk=size.trunk | trunk, dtype=dtype)


def make_init(model: vlm.LatentActionVLM, tx: Any, param_dtype: str = "float32") -> Any:
    """key -> train state."""

    def init(key: jax.Array) -> Any:
        return model.init(key, Tokens.of(jnp.ones((1, 2), jnp.int32), vocab.TEXT))

    return training.make_init(init, tx, param_dtype)


def make_step(model: vlm.LatentActionVLM, predicted: int | None = None) -> tuple[Any, Any]:
    """(train step over rows int[B, T], optimizer).

    Args:
        predicted: only so many tokens at the end of a row are; None: all that have one before them.
    """

    def loss_fn(params: Any, variables: Any, rows: jax.Array, key: jax.Array) -> Any:
        del key
        hidden = model.apply({"params": params}, Tokens.of(rows, vocab.TEXT))
        first = rows.shape[1] - predicted if predicted else 1
        logits = model.apply({"params": params}, hidden[:, first - 1 : -1], "text", method="logits")
        return losses.token_cross_entropy(logits, rows[:, first:]), ({}, variables)

    b1, b2 = BETAS
    rate = dict(learning_rate=LEARNING_RATE, end_learning_rate=LEARNING_RATE)
    tx, _ = optimizers.make(num_steps=1, **rate, b1=b1, b2=b2, clip_norm=CLIP_NORM)
    return training.make_train_step(loss_fn, tx), tx


def make_generate(model: vlm.LatentActionVLM) -> Any:
    """(params, prompts int[B, T]) -> int[B, CODES], the likeliest."""

    def run(params: Any, prompts: jax.Array) -> jax.Array:
        prompt = Tokens.of(prompts, vocab.TEXT)
        return generate.generate(model, {"params": params}, prompt, name="text", count=sizes.CODES).ids

    return jax.jit(run)
