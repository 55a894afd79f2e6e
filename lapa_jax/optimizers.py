"""config -> optimizer (what it trains, an optax transformation) and learning-rate schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lapa_jax import errors
from lapa_jax.selection import Selection


class Optimizer(NamedTuple):
    """An optax transformation of what is trained; the rest has neither a gradient nor optimizer state.

    Attributes:
        init, update: as of `optax.GradientTransformation`, of the part that `selection` chooses.
        ema: decay of the moving average of that part; 0: there is none.
    """

    init: Callable
    update: Callable
    selection: Selection = Selection()
    ema: float = 0.0


def of(tx: "Optimizer | optax.GradientTransformation") -> Optimizer:
    """`tx` as an optimizer; a plain optax transformation trains everything."""
    return tx if isinstance(tx, Optimizer) else Optimizer(*tx)


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
    trainable: str = "",
    frozen: str = "",
    ema: float = 0.0,
) -> tuple[Optimizer, optax.Schedule]:
    """AdamW with linear warm-up then cosine decay, after clipping by global norm.

    Args:
        num_steps: length of the schedule in updates.
        weight_decay: applied to leaves of two or more dimensions.
        trainable, frozen: regular expressions of parameter paths, see `selection.Selection`.
        ema: decay of a moving average of what is trained, which is what will be evaluated; 0: none.

    Raises:
        UserError: a decay that is none.
    """
    if not 0.0 <= ema < 1.0:
        raise errors.UserError(f"optimizer.ema={ema} is no decay: give 0 (none) or less than 1, such as 0.999")
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
    return Optimizer(*tx, selection=Selection(trainable, frozen), ema=ema), schedule


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim >= 2, params)
