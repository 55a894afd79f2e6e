"""Stage 3: map latent actions to a robot's actions with a few labelled episodes.

    python experiments/finetune.py --config=experiments/configs/finetune.py:demo --workdir=runs/demo/finetune \
        --config.vlm=runs/demo/vlm
"""

from typing import Any

import action_parts
import jax
import launch
import measuring

from lapa_jax import checkpoints, errors, hosts, metrics, optimizers, policy, trained, training
from lapa_jax.actions import task as task_lib
from lapa_jax.data import encoded, loader, sources
from lapa_jax.evaluation import action_quality

CONFIG, WORKDIR = launch.define("finetune")


def make_loss(task: task_lib.ActionTask) -> training.LossFn:
    """What the head has to learn of action chunks; past the end of an episode nothing counts."""

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        loss, log = task.loss(params, variables, batch, key)
        return loss, ({**log, training.WEIGHT: batch["action_mask"].sum()}, variables)

    return loss_fn


def main(_: Any) -> None:
    config = CONFIG.value
    if config.vlm is None:
        raise errors.UserError("which VLM? give --config.vlm=FOLDER of a pretrain_vlm run")
    mesh = launch.start(config)  # 1 devices
    planner = trained.describe_planner(config.vlm)
    data = config.data
    encoded.check_decoded(planner.resize, data.decode_once)
    with hosts.main_first("data"):  # what it indexes and decodes the others find
        robot = sources.open_episodes(data.directory, data.split, "robot", data)  # 2 data
        few, others = robot.divided(data.episodes)
        task = action_parts.prepare(config, planner, few)  # 3 model
    seen = few.decoded(planner.image_size, task.cameras[1:]) if data.decode_once else few
    examples = loader.action_stream(
        seen, task.layout, task.statistics, task.horizon, config.batch_size, config.seed, planner.image_size,
        resize=planner.resize, beside=task.beside, **sources.reading(data), **launch.shares(mesh),
    )
    batches = measuring.source(config, examples)

    tx, schedule = optimizers.make(config.num_steps, **action_parts.optimizer(config))  # 4 optimizer

    def make_step(task: task_lib.ActionTask) -> Any:  # 5 the experiment itself
        return training.make_train_step(make_loss(task), tx, config.seed, accumulate=config.accumulate)

    speed = measuring.speedometer(config, WORKDIR.value, mesh, lambda: make_step(measuring.plain_vlm(task)))
    init = training.make_init(task.init_fn(), tx, config.param_dtype, config.frozen_dtype)

    def first() -> training.TrainState:
        state = training.init_sharded(init, mesh, config.seed)
        return policy.with_planner(state, config.vlm, scratch=config.scratch)

    abstract = training.abstract_state(init, mesh)
    saved = checkpoints.Checkpoints(WORKDIR.value, config.to_dict(), task.to_json(), **config.checkpoint)
    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, first, batches)  # 6 resume > pretrained
        writer = metrics.Writer(WORKDIR.value, "scratch" if config.scratch else "finetune")
        state = training.fit(  # 7 the loop, shared by all stages
            state, make_step(task), batches, saved, writer, mesh, config.num_steps, config.log_every,
            schedule, speed,
        )
        state = state.for_evaluation()  # 8 held-out error
        error = action_quality.evaluate(task, state, others)
        writer.write(int(state.step), error, split="val")
        fitted = action_quality.evaluate(task, state, seen)["mse"]  # what check_served has to find again
        done = {"val_mse": error["mse"], "train_mse": fitted, "episodes": len(few), "updates": int(state.step)}
        metrics.summarise(WORKDIR.value, done)


if __name__ == "__main__":
    launch.run(main)
