"""Stage 3: map latent actions to a robot's actions with a few labelled episodes.

    python experiments/finetune.py --config=experiments/configs/finetune.py:demo --workdir=runs/demo/finetune \
        --config.vlm=runs/demo/vlm
"""

import functools
from typing import Any

import jax
import launch

from lapa_jax import checkpoints, errors, losses, metrics, optimizers, policy, trained, training
from lapa_jax.data import encoded, loader, sources, statistics
from lapa_jax.evaluation import action_quality
from lapa_jax.models import heads

CONFIG, WORKDIR = launch.define("finetune")


def make_loss(model: heads.LatentActionPolicy, planner: trained.Planner) -> training.LossFn:
    """Regression of normalised action chunks."""

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        del key
        actions = model.apply({"params": params}, *policy.network_inputs(planner, variables, batch))
        log = {training.WEIGHT: batch["action_mask"].sum()}
        return losses.action_regression(actions, batch["actions"], batch["action_mask"]), (log, variables)

    return loss_fn


def main(_: Any) -> None:
    config = CONFIG.value
    if config.vlm is None:
        raise errors.UserError("which VLM? give --config.vlm=FOLDER of a pretrain_vlm run")
    mesh = launch.start(config)  # 1 devices
    planner = trained.describe_planner(config.vlm)
    size = planner.image_size

    data = config.data
    encoded.check_decoded(planner.resize, data.decode_once)
    robot = sources.open_episodes(data.directory, data.split, "robot", data)  # 2 data
    few, others = robot.divided(data.episodes)
    stats = statistics.cached(few, "action", data.normalisation, data.cache)
    batches = loader.action_stream(
        few.decoded(size) if data.decode_once else few, planner.layout, stats, config.head.horizon,
        config.batch_size, config.seed, size, resize=planner.resize, **sources.reading(data), **launch.shares(),
    )

    assets = policy.describe(planner.to_json(), stats, config.head)  # 3 model
    model = policy.build(assets)
    if config.scratch:
        config.optimizer.update(trainable="", frozen="")  # there is nothing worth keeping
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 4 optimizer
    loss_fn = make_loss(model, planner)  # 5 the experiment itself
    init = training.make_init(policy.init_fn(model, assets), tx, config.param_dtype, config.frozen_dtype)

    def first() -> training.TrainState:
        state = training.init_sharded(init, mesh, config.seed)
        return policy.with_planner(state, config.vlm, scratch=config.scratch)

    abstract = training.abstract_state(init, mesh)
    saved = checkpoints.Checkpoints(WORKDIR.value, config.to_dict(), assets, **config.checkpoint)
    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, first, batches)  # 6 resume > pretrained
        step = training.make_train_step(loss_fn, tx, config.seed, accumulate=config.accumulate)
        writer = metrics.Writer(WORKDIR.value, "scratch" if config.scratch else "finetune")
        state = training.fit(  # 7 the loop, shared by all stages
            state, step, batches, saved, writer, mesh, config.num_steps, config.log_every, schedule
        )
        state = state.for_evaluation()  # 8 held-out error
        predict = functools.partial(policy.predict, model, planner)
        error = action_quality.evaluate(predict, state, others, planner, stats, config.head.horizon)
        writer.write(int(state.step), error, split="val")
        done = {"val_mse": error["mse"], "episodes": len(few), "updates": int(state.step)}
        metrics.summarise(WORKDIR.value, done)


if __name__ == "__main__":
    launch.run(main)
