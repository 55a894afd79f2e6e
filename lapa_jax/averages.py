"""A moving average of what is trained: weights that are better to evaluate than the last ones.

Averages over the end of a run take out what single updates add by chance (Polyak & Juditsky 1992; for networks
Izmailov et al. 2018).
"""

from typing import Any

import jax
import jax.numpy as jnp


def start(trained: Any) -> Any:
    """The average before the first update, float32: in bfloat16 a slow one would stand still."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32), trained)


def follow(ema: Any, decay: float, step: jax.Array, before: Any, maintained: Any, after: Any) -> Any:
    """The average after an update; None stays None.

    Its decay is min(decay, (1 + step) / (10 + step)), so that a short run does not average over its beginning.
    At step 0 it starts anew, since weights may have been loaded into the state. What maintenance has moved is moved
    in the average, too: a restarted code is none of the old one.

    Args:
        step: int32[], of the update, from 0.
        before, maintained, after: what is trained as the step found it, after `maintain`, after the update.
    """
    if ema is None:
        return None
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))

    def one(average: jax.Array, *values: jax.Array) -> jax.Array:
        old, moved, new = (value.astype(jnp.float32) for value in values)
        average = jnp.where(step == 0, moved, average + (moved - old) if maintained is not before else average)
        return decay * average + (1.0 - decay) * new

    return jax.tree.map(one, ema, before, maintained, after)
