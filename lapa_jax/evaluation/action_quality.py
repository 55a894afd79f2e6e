"""Open-loop error of a policy's action chunks on episodes it was not trained on."""

from typing import Any

import jax
import numpy as np

from lapa_jax import training
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import loader, prompts, statistics


def evaluate(
    model: Any,
    state: training.TrainState,
    episodes: episodes_lib.Episodes,
    tokenizer: prompts.Tokenizer,
    stats: statistics.Statistics,
    horizon: int,
    image_size: int,
) -> dict[str, float]:
    """`mse` of normalised actions, and `zero_mse` of always answering their mean, the floor to beat."""
    stream = loader.action_stream(
        episodes, tokenizer, stats, horizon, 100, image_size=image_size, repeat=False, shuffle=False
    )
    forward = jax.jit(lambda p, t, i: model.apply({"params": p}, t, i))
    squared, zero, count = 0.0, 0.0, 0
    for batch in stream:
        rows = len(batch["text"])
        text, image = (np.resize(batch[k], (100, *batch[k].shape[1:])) for k in ("text", "image"))
        predicted = np.asarray(forward(state.params, text, image))[:rows]
        mask = batch["action_mask"]
        squared += float(np.sum(np.square(predicted - batch["actions"])[mask]))
        zero += float(np.sum(np.square(batch["actions"])[mask]))
        count += int(mask.sum()) * predicted.shape[-1]
    return {"loss": squared / count, "mse": squared / count, "zero_mse": zero / count}
