"""Stage 1: learn a codebook of latent actions from pairs of video frames; no actions are read.

    python experiments/train_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/demo/laq
"""

import functools
from typing import Any

import jax
import launch

from lapa_jax import checkpoints, collapse, losses, metrics, optimizers, training
from lapa_jax.data import episodes, loader, sources
from lapa_jax.evaluation import laq_quality
from lapa_jax.models import laq

CONFIG, WORKDIR = launch.define("train_laq")


def make_loss(model: laq.LatentActionQuantizer, change_weight: float) -> training.LossFn:
    """Rebuild the next frame from the first and the codes; weight the pixels that changed."""

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        apply = functools.partial(model.apply, {"params": params, **variables}, rngs={"noise": key})
        frame, target = apply(batch["frame"], method="view"), apply(batch["next_frame"], method="view")
        out, new = apply(batch["frame"], batch["next_frame"], train=True, mutable=list(variables))
        log = metrics.reconstruction(out.reconstruction, target, frame) | out.log
        if model.discrete:
            log |= metrics.code_health(out.latent.codes, out.latent.z, model.num_codes)
        else:
            log |= metrics.z_health(out.latent.z)
        loss = losses.reconstruction(out.reconstruction, target, frame, change_weight)
        return loss + out.loss, (log, {**variables, **new})

    return loss_fn


def make_maintain(model: laq.LatentActionQuantizer) -> training.MaintainFn:
    """Dead codes are restarted between two gradients."""

    def maintain(params: Any, variables: Any, key: jax.Array) -> Any:
        state = {"params": params, **variables}
        _, new = model.apply(state, method="maintain", mutable=list(state), rngs={"noise": key})
        state |= new
        return state.pop("params"), state

    return maintain


WATCH = {"codebook_grad_norm": r"quantize/codebook$"}


def main(_: Any) -> None:
    config = CONFIG.value
    mesh = launch.start(config)  # 1 devices
    train(config, WORKDIR.value, mesh, open_video(config.data))


def open_video(data: Any) -> episodes.Mixture:
    """What is trained on, decoded beforehand if the config wants that."""
    video = sources.open_mixture(data, data.train_split, "video")
    return video.decoded(data.image_size) if data.decode_once else video


def train(config: Any, workdir: str, mesh: jax.sharding.Mesh, video: episodes.Mixture) -> None:
    """One run, from the data to its summary; goes on where a killed one stopped."""
    data = config.data
    robot = sources.open_mixture(data, data.val_split, "robot")  # 2 data: for probes, at the end
    batches = loader.frame_pairs(
        video, sources.gap_of(data), config.batch_size, config.seed, data.image_size,
        **sources.reading(data), **launch.shares(),
    )

    model = laq.LatentActionQuantizer(**config.model)  # 3 model: a value, no weights yet
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 4 optimizer
    loss_fn = make_loss(model, config.loss.change_weight)  # 5 the experiment itself
    init = training.make_init(laq.init_fn(model, data.image_size), tx)

    assets = {"dataset": video.fingerprint}
    abstract = training.abstract_state(init, mesh)  # 6 weights, born sharded
    saved = checkpoints.Checkpoints(workdir, config.to_dict(), assets, **config.checkpoint)
    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, lambda: training.init_sharded(init, mesh, config.seed), batches)
        step = training.make_train_step(loss_fn, tx, config.seed, make_maintain(model), WATCH)  # 7 resume > scratch
        limits = collapse.Limits(**config.alarm)
        writer = collapse.Watched(metrics.Writer(workdir, "laq"), workdir, model.num_codes, limits)
        state = training.fit(  # 8 the loop, shared by all stages
            state, step, batches, saved, writer, mesh, config.num_steps, config.log_every, schedule
        )
        quality = laq_quality.evaluate(model, state, robot, data, config.evaluation.pairs)  # 9 held-out
        laq_quality.save(workdir, writer, int(state.step), quality)


if __name__ == "__main__":
    launch.run(main)
