"""The train step of each program as it would run, on shapes alone: no data is opened, no weight is held."""

import dataclasses
from typing import Any

import jax
import numpy as np
import step_networks
from ml_collections import ConfigDict

from lapa_jax import optimizers, selection, sharding, training
from lapa_jax.planning import work


@dataclasses.dataclass(frozen=True)
class Step:
    """
    Attributes:
        step: jitted (state, batch) -> (state, metrics), which takes the state's memory.
        state, batch: trees of ShapeDtypeStructs with their shardings.
        network: what it trains.
        selection: which of its parameters.
    """

    step: Any
    state: training.TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    network: step_networks.Network
    selection: selection.Selection


def make(program: str, config: ConfigDict, mesh: jax.sharding.Mesh) -> Step:
    """The step of a program on a mesh, whose devices may be ones that are only described.

    Raises:
        UserError: there is no such program, or its config needs what is not there.
    """
    net = step_networks.of(program, config)
    tx, _ = optimizers.make(config.num_steps, **(net.optimizer or config.optimizer))
    init = training.make_init(net.init_fn, tx, config.param_dtype, config.frozen_dtype)
    step = training.make_train_step(net.loss_fn, tx, config.seed, net.maintain, accumulate=config.accumulate)
    split = jax.sharding.NamedSharding(mesh, sharding.BATCH)
    batch = {name: _rows(one, config.batch_size, split) for name, one in net.row.items()}
    return Step(step, training.abstract_state(init, mesh), batch, net, optimizers.of(tx).selection)


def _rows(row: np.ndarray, count: int, split: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *row.shape), row.dtype, sharding=split)


def needed(made: Step) -> work.Work:
    """What the model needs of a step: loss and gradients of what is trained, nothing computed twice."""
    trained_params, rest = made.selection.split(made.state.params)

    def loss(params: Any, rest: Any, variables: Any, batch: Any) -> Any:
        return made.network.plain(selection.join(params, rest), variables, batch, jax.random.key(0))

    return work.of(jax.grad(loss, has_aux=True), trained_params, rest, made.state.variables, made.batch)
