"""config -> optimizer and learning-rate schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from lapa_jax import adamw, errors
from lapa_jax.moments import FORMATS
from lapa_jax.selection import Selection


class Optimizer(NamedTuple):
    """How what is trained changes; the rest has neither a gradient nor optimizer state.

    Attributes:
        init: parameters -> optimizer state.
        step: (gradients, state, parameters, key of rounding) -> (parameters, state).
        selection: which parameters are trained; `init` and `step` are given those only.
        ema: decay of their moving average; 0: there is none.
    """

    init: Callable
    step: Callable
    selection: Selection = Selection()
    ema: float = 0.0


def of(tx: Optimizer | optax.GradientTransformation) -> Optimizer:
    """`tx` as an optimizer; a plain optax transformation trains everything."""
    if isinstance(tx, Optimizer):
        return tx

    def step(grads: Any, state: Any, params: Any, key: jax.Array) -> tuple[Any, Any]:
        del key
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return Optimizer(tx.init, step)


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
    moments: str = "float32",
) -> tuple[Optimizer, optax.Schedule]:
    """AdamW with linear warm-up then cosine decay, after clipping by global norm.

    Args:
        num_steps: length of the schedule in updates.
        weight_decay: applied to matrices; not to scales and biases, stacked or not.
        trainable, frozen: regular expressions of parameter paths, see `selection.Selection`.
        ema: decay of a moving average of what is trained, which is what will be evaluated; 0: none.
        moments: how Adam's are stored, see `moments.FORMATS`.

    Raises:
        UserError: a decay that is none, or no such moments.
    """
    if not 0.0 <= ema < 1.0:
        raise errors.UserError(f"optimizer.ema={ema} is no decay: give 0 (none) or less than 1, such as 0.999")
    if moments not in FORMATS:
        raise errors.UserError(f"no optimizer.moments {moments!r}; choose one of {', '.join(FORMATS)}")
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=learning_rate if warmup_steps == 0 else 0.0,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(num_steps, warmup_steps + 1),
        end_value=end_learning_rate,
    )
    own = adamw.AdamW(schedule, b1, b2, eps, weight_decay, clip_norm, moments)
    return Optimizer(own.init, own.step, Selection(trainable, frozen), ema), schedule
