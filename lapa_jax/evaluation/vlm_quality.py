"""How well the VLM predicts held-out latent actions, beside two baselines that know less."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from lapa_jax import sharding, training
from lapa_jax.data import latents as latents_lib
from lapa_jax.latent_task import LatentTask

Batch = Mapping[str, np.ndarray]
Streams = Callable[[float], Iterable[Batch]]
"""Rate of blank instructions -> one epoch of a dataset, always in the same order and whole in each process."""


def evaluate(
    task: LatentTask,
    state: training.TrainState,
    mesh: jax.sharding.Mesh,
    datasets: Mapping[str, Streams],
    majority: np.ndarray,
    num_steps: int,
    batch_size: int,
) -> dict[str, Any]:
    """Loss and accuracy per latent token (teacher-forced) on held-out episodes, one sequence a row.

    Args:
        datasets: name -> its held-out batches.
        majority: int[N], the commonest training code at each position.
        num_steps: of all datasets together, about.

    Returns:
        `code_accuracy`; `majority_accuracy`, always answering `majority`; `blank_accuracy`, the same
        weights shown the image alone (trained for it by `blank_instruction_rate`); `code_loss`, nats a code;
        and these for each of several `datasets`.
    """
    judge = _judge(task, state, mesh, batch_size)
    calls = -(-num_steps // (batch_size * len(datasets)))
    rows = {name: _rows(judge, streams, majority, calls) for name, streams in datasets.items()}
    whole = {key: np.concatenate([one[key] for one in rows.values()]) for key in next(iter(rows.values()))}
    each = {"datasets": {name: _means(one) for name, one in rows.items()}} if len(rows) > 1 else {}
    return _means(whole) | each


def _judge(
    task: LatentTask, state: training.TrainState, mesh: jax.sharding.Mesh, batch_size: int
) -> Callable[[Batch], dict[str, np.ndarray]]:
    @jax.jit
    def forward(params: Any, variables: Any, batch: Any) -> tuple[jax.Array, ...]:
        logits, codes, _ = task.predicted(params, task.completed(variables, batch))["latent"]
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, codes)
        return logits.argmax(-1) == codes, loss, codes

    def judge(batch: Batch) -> dict[str, np.ndarray]:
        rows = len(batch["tokens"])  # the last batch may be short: padded, so that one compilation serves
        padded = {key: np.resize(value, (batch_size, *value.shape[1:])) for key, value in batch.items()}
        found = sharding.fetched(forward(state.params, state.variables, sharding.whole_batch(mesh, padded)))
        return {key: one[:rows] for key, one in zip(("hit", "loss", "codes"), found, strict=True)}

    return judge


def _rows(judge: Callable, streams: Streams, majority: np.ndarray, calls: int) -> dict[str, np.ndarray]:
    """[steps, N] each."""
    seen = [judge(batch) for batch in itertools.islice(streams(0.0), calls)]
    blank = [judge(batch) for batch in itertools.islice(streams(1.0), calls)]
    found = {key: np.concatenate([one[key] for one in seen]) for key in seen[0]}
    hits = {"code": found["hit"], "blank": np.concatenate([one["hit"] for one in blank])}
    return hits | {"majority": found["codes"] == majority, "loss": found["loss"]}


def _means(rows: Mapping[str, np.ndarray]) -> dict[str, Any]:
    accuracies = {f"{name}_accuracy": float(rows[name].mean()) for name in ("code", "majority", "blank")}
    return accuracies | {"code_loss": float(rows["loss"].mean()), "held_out_steps": len(rows["code"])}


def majority_codes(labels: Sequence[latents_lib.Latents]) -> np.ndarray:
    """int[N]: the commonest code at each position, over all datasets."""
    return commonest(np.concatenate([found.codes(e) for found in labels for e in range(len(found))]))


def commonest(codes: np.ndarray) -> np.ndarray:
    """int[N]: the commonest of each column of int[steps, N]."""
    return np.array([np.bincount(column).argmax() for column in codes.T])


def log_line(summary: Mapping[str, Any]) -> dict[str, float]:
    """The part of the summary for metrics.jsonl."""
    line = {name: value for name, value in summary.items() if name.endswith(("accuracy", "loss"))}
    for dataset, found in summary.get("datasets", {}).items():
        line |= {f"{dataset}/{name}": value for name, value in log_line(found).items()}
    return line
