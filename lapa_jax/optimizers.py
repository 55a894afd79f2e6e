"""config -> optax transformation and learning-rate schedule."""

import re
from typing import Any

import jax
import optax

from lapa_jax import errors, sharding


def make(
    num_steps: int,
    learning_rate: float,
    end_learning_rate: float = 0.0,
    warmup_steps: int = 0,
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    frozen: str = "",
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with linear warm-up then cosine decay, after clipping by global norm.

    Args:
        num_steps: length of the schedule in updates.
        weight_decay: applied to leaves of two or more dimensions.
        frozen: regular expression; parameters whose path matches it get no update.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=learning_rate if warmup_steps == 0 else 0.0,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(num_steps, warmup_steps + 1),
        end_value=end_learning_rate,
    )
    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=_matrices),
    )
    if frozen:
        tx = optax.multi_transform(
            {"train": tx, "frozen": optax.set_to_zero()}, lambda params: _labels(params, frozen)
        )
    return tx, schedule


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def _labels(params: Any, frozen: str) -> Any:
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: "frozen" if re.search(frozen, sharding.path_name(path)) else "train", params
    )
    if "frozen" not in jax.tree.leaves(labels):
        raise errors.UserError(f"frozen={frozen!r} matches no parameter: check the expression")
    return labels
