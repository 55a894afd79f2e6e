"""TrainState, sharded initialisation, the train step and the only training loop."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lapa_jax import accumulation, adamw, averages, errors, optimizers, selection, sharding
from lapa_jax import speed as speed_lib

Batch = Mapping[str, jax.Array]
LossFn = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]
"""(params, variables, batch, key) -> (loss, (metrics, new variables)).

A loss that is a mean over masked places says how many there are, as the metric `WEIGHT`: then `accumulate` parts of
a batch weigh as much as their places do in the whole. It is not logged.
"""
WEIGHT = accumulation.WEIGHT
MaintainFn = Callable[[Any, Any, jax.Array], tuple[Any, Any]]
"""(params, variables, key) -> (params, variables), between a gradient and its update."""


@flax.struct.dataclass
class TrainState:
    """What a run carries from step to step.

    Attributes:
        step: int32[].
        params: all parameters, trained or not.
        variables: the other collections (running statistics).
        opt_state: of what is trained.
        ema: float32 moving averages of what is trained, pruned to its paths; None without them.
    """

    step: jax.Array
    params: Any
    variables: Any
    opt_state: Any
    ema: Any = None

    def eval_params(self) -> Any:
        """All parameters, averages in the place of those that have one."""
        if self.ema is None:
            return self.params
        averaged = flax.traverse_util.flatten_dict(self.ema, sep="/")
        trained, rest = selection.cut(self.params, averaged.__contains__)
        return selection.join(jax.tree.map(lambda p, mean: mean.astype(p.dtype), trained, self.ema), rest)

    def for_evaluation(self) -> "TrainState":
        """The state with `eval_params` as its parameters, and without what only training needs."""
        return self.replace(params=self.eval_params(), opt_state=None, ema=None)


class Stream(Protocol):
    """What `fit` needs of a batch source (see `data/loader.py`)."""

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


Tx = optimizers.Optimizer | optax.GradientTransformation


def make_init(
    init_fn: Callable[[jax.Array], Any],
    tx: Tx | None = None,
    param_dtype: str | None = None,
    frozen_dtype: str | None = None,
) -> Callable[[jax.Array], TrainState]:
    """(key, given) -> TrainState, from `init_fn(key) -> flax variables`; no optimizer state without `tx`.

    `given` maps paths to parameters that take the place of fresh ones; under jit the latter are then not even made.

    Args:
        param_dtype, frozen_dtype: how what `tx` trains and what it does not is stored, "float32" or
            "bfloat16"; None: as `init_fn` makes it.

    Raises:
        UserError: another dtype; when called, expressions of `tx` that do not fit the parameters.
    """
    dtypes = [_dtype(name, kind) for name, kind in (("param_dtype", param_dtype), ("frozen_dtype", frozen_dtype))]

    def init(key: jax.Array, given: Mapping[str, jax.Array] | None = None) -> TrainState:
        variables = dict(init_fn(key))
        params = selection.replaced(variables.pop("params"), given or {})
        if tx is None:
            return TrainState(jnp.int32(0), _cast(params, dtypes[0]), variables, None)
        optimizer = optimizers.of(tx)
        trained, rest = map(_cast, optimizer.selection.split(params), dtypes)
        ema = averages.start(trained) if optimizer.ema else None
        return TrainState(jnp.int32(0), selection.join(trained, rest), variables, optimizer.init(trained), ema)

    return init


def _dtype(key: str, name: str | None) -> Any:
    if name not in (None, "float32", "bfloat16"):
        raise errors.UserError(f"no {key} {name!r}; choose float32 or bfloat16")
    return name and jnp.dtype(name)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(dtype) if dtype and jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def abstract_state(init: Callable, mesh: Mesh) -> TrainState:
    """The state as ShapeDtypeStructs that carry their shardings; nothing is computed."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
        shapes,
        sharding.tree_shardings(mesh, shapes),
    )


def init_sharded(
    init: Callable, mesh: Mesh, seed: int, given: Mapping[str, jax.Array] | None = None
) -> TrainState:
    """A state born sharded: no device ever holds a leaf it does not keep.

    Args:
        given: path -> parameter, in its place already; it becomes part of the state and is not to be used again.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(init, mesh))
    return jax.jit(init, out_shardings=shardings, donate_argnums=1)(jax.random.key(seed), dict(given or {}))


def make_train_step(
    loss_fn: LossFn,
    tx: Tx,
    seed: int = 0,
    maintain: MaintainFn | None = None,
    watch: Mapping[str, str] | None = None,
    accumulate: int = 1,
) -> Callable:
    """jitted (state, batch) -> (state, metrics). Randomness is a function of (seed, step) alone.

    Only what `tx` trains is differentiated: the rest costs a forward pass and neither gradient nor
    optimizer state.

    Args:
        maintain: changes parameters by other means than the gradient, trained ones or not, just before
            the update is added.
        watch: name of a metric -> regular expression of parameter paths; the norm of their gradient.
        accumulate: parts that the batch is cut into, one after the other on the device, for its memory's sake.
    """
    optimizer = optimizers.of(tx)
    split = optimizer.selection.split

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        before, rest = split(state.params)

        def loss_of(trained: Any, variables: Any, batch: Batch, key: jax.Array) -> Any:
            return loss_fn(selection.join(trained, rest), variables, batch, key)

        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        parts_key = key if accumulate == 1 else jax.random.fold_in(key, 3)
        (loss, (metrics, variables)), grads = accumulation.gradients(
            grad_fn, accumulate, before, state.variables, batch, parts_key
        )
        trained = before
        if maintain is not None:
            params, variables = maintain(state.params, variables, jax.random.fold_in(key, 1))
            trained, rest = split(params)
        updated, opt_state = optimizer.step(grads, state.opt_state, trained, jax.random.fold_in(key, 2))
        ema = averages.follow(state.ema, optimizer.ema, state.step, before, trained, updated)
        params = selection.join(updated, rest)
        norms = {"grad_norm": adamw.global_norm(grads), **_norms(grads, watch or {})}
        after = sharding.constrain_tree(TrainState(state.step + 1, params, variables, opt_state, ema))
        return after, {"loss": loss, **norms, **metrics}

    return jax.jit(step, donate_argnums=0)


def _norms(grads: Any, watch: Mapping[str, str]) -> dict[str, jax.Array]:
    named = [(sharding.path_name(path), leaf) for path, leaf in jax.tree.leaves_with_path(grads)]
    found = {name: [g for path, g in named if re.search(pattern, path)] for name, pattern in watch.items()}
    return {name: adamw.global_norm(leaves) for name, leaves in found.items() if leaves}


def fit(
    state: TrainState,
    step: Callable,
    batches: Stream,
    saved: Any,
    writer: Any,
    mesh: Mesh,
    num_steps: int,
    log_every: int,
    schedule: optax.Schedule | None = None,
    speed: speed_lib.Speedometer | None = None,
) -> TrainState:
    """Train to `num_steps`, logging and saving on the way; returns at once if already there.

    A run of no steps saves the state that it begins with.

    Metrics of a step are fetched after the next one is dispatched, so logging does not stall the device.

    Args:
        speed: measures it, and can be told more (what a step needs, which are profiled).

    Raises:
        UserError: the loss or its gradient is not finite (names the step and the last checkpoint).
    """
    start = int(state.step)
    if start >= num_steps:
        if saved.latest_step() is None:
            saved.save(start, state, batches.get_state())
            saved.wait()
        return state
    writer.begin(start, num_steps)
    pending: tuple[int, dict] | None = None
    with (speed or speed_lib.Speedometer()).begin(start) as speed:
        iterator = iter(batches)
        for i in range(start, num_steps):
            batch = sharding.global_batch(mesh, speed.next(iterator))
            state, metrics = speed.run(step, state, batch)
            if pending is not None:
                _log(writer, saved, speed, schedule, *pending)
                pending = None
            done = i + 1
            if done % log_every == 0 or done == num_steps or i == start:
                pending = (done, metrics)
            if saved.due(done) or done == num_steps:
                _check(saved, done, metrics)  # never save a state that went wrong
                if pending is not None:
                    _log(writer, saved, speed, schedule, *pending)
                    pending = None
                saved.save(done, state, batches.get_state())
                saved.leave_if_told(done)
    saved.wait()
    return state


def _log(
    writer: Any,
    saved: Any,
    speed: speed_lib.Speedometer,
    schedule: optax.Schedule | None,
    step: int,
    metrics: dict[str, Any],
) -> None:
    _check(saved, step, metrics)
    values = {name: float(value) for name, value in metrics.items()}
    rate = {} if schedule is None else {"learning_rate": float(schedule(step - 1))}
    writer.write(step, values | rate | speed.line(step))


def _check(saved: Any, step: int, metrics: dict[str, Any]) -> None:
    for name in ("loss", "grad_norm"):
        value = float(metrics.get(name, 0.0))
        if not np.isfinite(value):
            raise errors.UserError(
                f"{name} is {value} at step {step}: lower --config.optimizer.learning_rate or check the data; "
                f"the last good checkpoint is step {saved.latest_step()} and was not touched"
            )
