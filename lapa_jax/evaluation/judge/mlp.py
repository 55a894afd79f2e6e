"""A small probe that is not linear: two hidden layers, AdamW, stopped by rows that it is not scored on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

WIDTH, BATCH, EPOCHS, PATIENCE = 128, 128, 200, 20
_TX = optax.adamw(1e-3, weight_decay=1e-2)
_FLOOR = 0.1  # of the mean scale; features that hardly vary would else be blown up


@dataclasses.dataclass(frozen=True)
class MLP:
    """A fitted probe float[N, F] -> float[N, D]."""

    params: Any
    statistics: tuple[np.ndarray, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x_mean, x_scale, y_mean, y_scale = self.statistics
        return _forward(np, self.params, _padded((x - x_mean) / x_scale)) * y_scale + y_mean


def fit(x: np.ndarray, y: np.ndarray, stop_x: np.ndarray, stop_y: np.ndarray, seed: int) -> MLP:
    """The weights of the epoch that predicts the rows `stop_x`, `stop_y` best.

    Args:
        x, stop_x: float[N, F] and float[M, F]. y, stop_y: float[N, D] and float[M, D].
    """
    x_scale, y_scale = x.std(axis=0), np.maximum(y.std(axis=0), 1e-12)
    x_scale = np.maximum(x_scale, _FLOOR * x_scale.mean() + 1e-12)
    statistics = (x.mean(axis=0), x_scale, y.mean(axis=0), y_scale)
    rows, stop = (_padded((a - statistics[0]) / statistics[1]) for a in (x, stop_x))
    wanted, stop_wanted = (np.float32((a - statistics[2]) / statistics[3]) for a in (y, stop_y))
    params = _initial(seed, rows.shape[1], y.shape[1])
    trained = _train(params, jax.random.key(seed), rows, wanted, stop, stop_wanted)
    return MLP(jax.tree.map(np.asarray, trained), statistics)


def _padded(x: np.ndarray) -> np.ndarray:
    """Zero columns up to a power of two, so that probes of many widths share a compilation."""
    width = max(16, 1 << (x.shape[1] - 1).bit_length())
    return np.pad(x, ((0, 0), (0, width - x.shape[1]))).astype(np.float32)


def _initial(seed: int, inputs: int, outputs: int) -> list[dict[str, np.ndarray]]:
    rng, sizes = np.random.default_rng(seed), (inputs, WIDTH, WIDTH, outputs)
    return [
        {"kernel": np.float32(rng.normal(size=(a, b)) * np.sqrt(2 / a)), "bias": np.zeros(b, np.float32)}
        for a, b in zip(sizes, sizes[1:], strict=False)
    ]


def _forward(xp: Any, params: Any, x: Any) -> Any:
    """`xp` is numpy or jax.numpy."""
    for layer in params[:-1]:
        x = xp.maximum(x @ layer["kernel"] + layer["bias"], 0.0)
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def _error(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(_forward(jnp, params, x) - y))


@jax.jit
def _train(params: Any, key: jax.Array, x: Any, y: Any, stop_x: Any, stop_y: Any) -> Any:
    """The weights with the least error on `stop_x`, `stop_y`, until none is better for PATIENCE epochs."""
    size = min(BATCH, len(x))

    def step(carry: Any, rows: jax.Array) -> Any:
        params, opt_state = carry
        updates, opt_state = _TX.update(jax.grad(_error)(params, x[rows], y[rows]), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def epoch(carry: Any) -> Any:
        number, since, least, best, params, opt_state = carry
        order = jax.random.permutation(jax.random.fold_in(key, number), len(x))
        batches = order[: len(x) // size * size].reshape(-1, size)
        (params, opt_state), _ = jax.lax.scan(step, (params, opt_state), batches)
        error = _error(params, stop_x, stop_y)
        better = error < least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
        return number + 1, jnp.where(better, 0, since + 1), jnp.minimum(error, least), best, params, opt_state

    start = (0, 0, jnp.float32(jnp.inf), params, params, _TX.init(params))
    return jax.lax.while_loop(lambda carry: (carry[0] < EPOCHS) & (carry[1] < PATIENCE), epoch, start)[3]
