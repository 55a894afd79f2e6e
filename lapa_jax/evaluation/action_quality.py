"""Open-loop error of a policy's action chunks on episodes it was not trained on."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lapa_jax import trained, training
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import loader, statistics


def evaluate(
    predict: Callable[[Any, Any], jax.Array],
    state: training.TrainState,
    episodes: episodes_lib.Episodes,
    planner: trained.Planner,
    stats: statistics.Statistics,
    horizon: int,
) -> dict[str, float]:
    """`mse` of normalised actions, and `zero_mse` of always answering their mean, the floor to beat.

    Args:
        predict: (variables, batch of `loader.action_stream`) -> normalised actions.
    """
    stream = loader.action_stream(
        episodes, planner.layout, stats, horizon, 100,
        image_size=planner.image_size, resize=planner.resize, repeat=False, shuffle=False,
    )  # fmt: skip
    forward, variables = jax.jit(predict), {"params": state.params, **state.variables}
    squared, zero, count = 0.0, 0.0, 0
    for batch in stream:
        rows, mask = len(batch["tokens"]), batch["action_mask"]
        full = {key: np.resize(value, (100, *value.shape[1:])) for key, value in batch.items()}
        predicted = np.asarray(forward(variables, full))[:rows]
        squared += float(np.sum(np.square(predicted - batch["actions"])[mask]))
        zero += float(np.sum(np.square(batch["actions"])[mask]))
        count += int(mask.sum()) * predicted.shape[-1]
    return {"loss": squared / count, "mse": squared / count, "zero_mse": zero / count}
