"""Stage 2: predict the latent action from the current image and the instruction; no actions are read.

    python experiments/pretrain_vlm.py --config=experiments/configs/pretrain_vlm.py:demo \
        --workdir=runs/demo/vlm --config.data.latents=runs/demo/latents
"""

import itertools
from typing import Any

import jax
import launch
import measuring
import numpy as np
import vlm_parts

from lapa_jax import checkpoints, hosts, latent_task, metrics, optimizers, sharding, training, vocab
from lapa_jax.data import latent_examples, sources
from lapa_jax.evaluation import vlm_quality

CONFIG, WORKDIR = launch.define("pretrain_vlm")


def make_loss(task: latent_task.LatentTask) -> training.LossFn:
    """Cross-entropy of the tokens that follow image and instruction."""

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        del key
        loss, log = task.loss(params, variables, batch)
        if not task.legacy:  # there rows count, however many places they have
            log |= {training.WEIGHT: (batch["loss_mask"] & (batch["target_kinds"] == vocab.LATENT)).sum()}
        return loss, (log, variables)

    return loss_fn


def majority_codes(
    parts: vlm_parts.Parts, state: training.TrainState, mesh: jax.sharding.Mesh, batches: Any
) -> np.ndarray:
    """int[N], the commonest code at each position: of all labels, or of 20 batches where they are made late."""
    if not isinstance(parts.labels, latent_examples.Follow):
        return vlm_quality.majority_codes(parts.labels)
    length, completed = parts.planner.layout.code_length, jax.jit(parts.task.completed)
    placed = (sharding.global_batch(mesh, batch) for batch in itertools.islice(batches, 20))
    found = [sharding.fetched(completed(state.variables, batch).targets) for batch in placed]
    codes = [t.ids[(t.kinds == vocab.LATENT) & t.real] for t in found]
    return vlm_quality.commonest(np.concatenate(codes).reshape(-1, length))


def main(_: Any) -> None:
    config = CONFIG.value
    mesh = launch.start(config)  # 1 devices
    data = config.data

    with hosts.main_first("data"):  # what it indexes and decodes the others find
        video, held = (sources.open_mixture(data, split, "video") for split in (data.train_split, data.val_split))
    parts = vlm_parts.prepare(config, video, mesh)  # 2 data
    batches = measuring.source(config, vlm_parts.stream(config, video, parts, **launch.shares(mesh)))
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 3 optimizer

    def make_step(task: latent_task.LatentTask) -> Any:  # 4 the experiment itself
        return training.make_train_step(make_loss(task), tx, config.seed, accumulate=config.accumulate)

    speed = measuring.speedometer(config, WORKDIR.value, mesh, lambda: make_step(measuring.plain_vlm(parts.task)))
    init = training.make_init(parts.init_fn(), tx, config.param_dtype, config.frozen_dtype)
    abstract = training.abstract_state(init, mesh)  # 5 weights, born sharded
    assets = {**parts.planner.to_json(), "latents": parts.origin}
    saved = checkpoints.Checkpoints(WORKDIR.value, config.to_dict(), assets, **config.checkpoint)

    def first() -> training.TrainState:
        given = parts.begin(abstract.params, config.init.new, config.init.ignore)
        return parts.fill(training.init_sharded(init, mesh, config.seed, given), abstract)

    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, first, batches)  # 6 resume > pretrained > scratch
        writer = metrics.Writer(WORKDIR.value, "vlm")
        step = make_step(parts.task)
        state = training.fit(  # 7 the loop, shared by all stages
            state, step, batches, saved, writer, mesh, config.num_steps, config.log_every, schedule, speed
        )
        state = state.for_evaluation()  # 8 held-out accuracy
        task, streams = vlm_parts.held_out(config, held, parts)
        majority = majority_codes(parts, state, mesh, batches)
        summary = vlm_quality.evaluate(
            task, state, mesh, streams, majority, config.evaluation.steps, config.batch_size
        )
        writer.write(int(state.step), vlm_quality.log_line(summary), split="val")
        metrics.summarise(WORKDIR.value, summary)


if __name__ == "__main__":
    launch.run(main)
