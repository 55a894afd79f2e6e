"""Stage 1: learn a codebook of latent actions from pairs of video frames; actions are read only if asked for.

    python experiments/train_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/demo/laq
"""

import functools
from typing import Any

import codes_parts
import jax
import laq_parts
import launch
import measuring

from lapa_jax import checkpoints, collapse, hosts, losses, metrics, optimizers, training
from lapa_jax.data import episodes, sources
from lapa_jax.evaluation import laq_quality
from lapa_jax.models import laq

CONFIG, WORKDIR = launch.define("train_laq")


def make_loss(
    model: laq.LatentActionQuantizer, change_weight: float, perceptual: float = 0.0, labels: float = 0.0
) -> training.LossFn:
    """Rebuild the next frame from the first and the codes; weight what changed.

    `perceptual` weighs the error in the tower's features, `labels` that of actions read off z.
    """

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        apply = functools.partial(model.apply, {"params": params, **variables}, rngs={"noise": key})
        pair = batch["frame"], batch["next_frame"]
        frame, target = (apply(x, method="view") for x in pair)
        changing = [name for name in variables if name != laq.FROZEN]
        out, new = apply(*pair, batch.get("text"), train=True, mutable=changing)
        log = metrics.reconstruction(out.reconstruction, target, frame) | out.log
        log |= metrics.z_health(out.latent.z)
        if model.discrete:
            log |= metrics.code_health(out.latent.codes, model.num_codes)
        loss = out.loss + losses.reconstruction(out.reconstruction, target, frame, change_weight)
        if perceptual:
            seen, wanted = (apply(x, method="features") for x in (out.reconstruction, target))
            log["perceptual"] = losses.reconstruction(seen, wanted, wanted)
            loss += perceptual * log["perceptual"]
        if labels:
            action = apply(batch["labelled_frame"], batch["labelled_next_frame"], method="action")
            log["action_mse"] = losses.reconstruction(action, batch["labelled_action"], action)
            loss += labels * log["action_mse"]
        return loss, (log, {**variables, **new})

    return loss_fn


WATCH = {"codebook_grad_norm": r"quantize(_scene)?/codebook$"}


def main(_: Any) -> None:
    config = CONFIG.value
    mesh = launch.start(config)  # 1 devices
    with hosts.main_first("data"):  # what it indexes and decodes the others find
        video = open_video(config.data)
    train(config, WORKDIR.value, mesh, video)


def open_video(data: Any) -> episodes.Mixture:
    """What is trained on, decoded beforehand if the config wants that."""
    video = sources.open_mixture(data, data.train_split, "video")
    return video.decoded(data.image_size) if data.decode_once else video


def train(config: Any, workdir: str, mesh: jax.sharding.Mesh, video: episodes.Mixture) -> None:
    """One run, from the data to its summary; goes on where a killed one stopped."""
    data = config.data
    robot = sources.open_mixture(data, data.val_split, "robot")  # 2 data: for probes, at the end
    parts = laq_parts.prepare(config, video)  # words, tower, earlier phase; completes config.model
    batches = measuring.source(config, laq_parts.batches(config, video, parts, **launch.shares(mesh)))

    model = laq.LatentActionQuantizer(**config.model)  # 3 model: a value, no weights yet
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 4 optimizer

    def make_step(model: laq.LatentActionQuantizer) -> Any:  # 5 the experiment itself
        loss_fn = make_loss(model, **config.loss, labels=config.labels.weight)
        maintain = codes_parts.make_maintain(model, config.accumulate)
        return training.make_train_step(loss_fn, tx, config.seed, maintain, WATCH, config.accumulate)

    speed = measuring.speedometer(config, workdir, mesh, lambda: make_step(measuring.plain_laq(model)))
    init_fn = laq.init_fn(model, data.image_size, data.text_length)
    init = training.make_init(init_fn, tx, config.param_dtype, config.frozen_dtype)

    assets = {"dataset": video.fingerprint} | parts.assets
    abstract = training.abstract_state(init, mesh)  # 6 weights, born sharded
    saved = checkpoints.Checkpoints(workdir, config.to_dict(), assets, **config.checkpoint)

    def first() -> training.TrainState:
        return laq_parts.fill(training.init_sharded(init, mesh, config.seed), abstract, parts)

    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, first, batches)  # 7 resume > tower, earlier phase > scratch
        limits = collapse.Limits(**config.alarm)
        writer = collapse.Watched(metrics.Writer(workdir, "laq"), workdir, model.num_codes, limits)
        state = training.fit(  # 8 the loop, shared by all stages
            state, make_step(model), batches, saved, writer, mesh, config.num_steps, config.log_every,
            schedule, speed,
        )
        state = state.for_evaluation()  # 9 held-out
        quality = laq_quality.evaluate(model, state, robot, data, config.evaluation.pairs)
        laq_quality.save(workdir, writer, int(state.step), quality)


if __name__ == "__main__":
    launch.run(main)
