"""Open-loop error of a policy's action chunks on episodes it was not trained on."""

import jax
import numpy as np

from lapa_jax import sharding, training
from lapa_jax.actions import task as task_lib
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import loader


def evaluate(
    task: task_lib.ActionTask,
    state: training.TrainState,
    episodes: episodes_lib.Episodes,
) -> dict[str, float]:
    """`mse` of normalised actions, and `zero_mse` of always answering their mean, the floor to beat.
    """
    planner = task.planner
    stream = loader.action_stream(
        episodes, task.layout, task.statistics, task.horizon, 100,
        image_size=planner.image_size, resize=planner.resize, beside=task.beside, repeat=False, shuffle=False,
    )  # fmt: skip
    forward, variables = jax.jit(task.normalised), {"params": state.params, **state.variables}
    squared, zero, count = 0.0, 0.0, 0
    for batch in stream:
        rows, mask = len(batch["tokens"]), batch["action_mask"]
        full = {key: np.resize(value, (100, *value.shape[1:])) for key, value in batch.items()}
        predicted = sharding.fetched(forward(variables, full))[:rows]
        squared += float(np.sum(np.square(predicted - batch["actions"])[mask]))
        zero += float(np.sum(np.square(batch["actions"])[mask]))
        count += int(mask.sum()) * predicted.shape[-1]
    return {"loss": squared / count, "mse": squared / count, "zero_mse": zero / count}
