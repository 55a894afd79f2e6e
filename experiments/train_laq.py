"""Stage 1: learn a codebook of latent actions from pairs of video frames; no actions are read.

    python experiments/train_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/demo/laq
"""

from typing import Any

import jax
import launch

from lapa_jax import checkpoints, losses, metrics, optimizers, training
from lapa_jax.data import loader, rlds
from lapa_jax.evaluation import laq_quality
from lapa_jax.models import laq

CONFIG, WORKDIR = launch.define("train_laq")


def make_loss(model: laq.LatentActionQuantizer, change_weight: float) -> training.LossFn:
    """Rebuild the next frame from the first and the codes; weight the pixels that changed."""

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        frame, target = laq.to_unit(batch["frame"]), laq.to_unit(batch["next_frame"])
        out, new = model.apply(
            {"params": params, **variables}, frame, target, train=True,
            mutable=list(variables), rngs={"noise": key},
        )
        usage = metrics.code_usage(out.codes, model.num_codes)
        log = {"perplexity": metrics.perplexity(usage), "psnr": metrics.psnr(out.reconstruction, target)}
        return losses.reconstruction(out.reconstruction, target, frame, change_weight), (log, new)

    return loss_fn


def main(_: Any) -> None:
    config = CONFIG.value
    mesh = launch.start(config, WORKDIR.value)  # 1 devices

    video = rlds.open_episodes(config.data.directory, config.data.train_split, view="video")  # 2 data
    if config.data.decode_once:
        video = video.decoded(config.data.image_size)
    batches = loader.frame_pairs(
        video, config.data.gap, config.batch_size, config.seed, config.data.image_size, **launch.shares()
    )

    model = laq.LatentActionQuantizer(**config.model)  # 3 model: a value, no weights yet
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 4 optimizer
    loss_fn = make_loss(model, config.loss.change_weight)  # 5 the experiment itself
    init = training.make_init(laq_quality.init_fn(model, config.data.image_size), tx)

    assets = {"gap": config.data.gap, "dataset": video.fingerprint}
    saved = checkpoints.Checkpoints(WORKDIR.value, config.to_dict(), assets, **config.checkpoint)
    with jax.set_mesh(mesh), saved:
        abstract = training.abstract_state(init, mesh)  # 6 weights, born sharded
        state = saved.restore_or(abstract, lambda: training.init_sharded(init, mesh, config.seed), batches)
        step = training.make_train_step(loss_fn, tx, config.seed)  # 7 resume > scratch
        writer = metrics.Writer(WORKDIR.value, "laq")
        state = training.fit(  # 8 the loop, shared by all stages
            state, step, batches, saved, writer, mesh, config.num_steps, config.log_every, schedule
        )
        robot = rlds.open_episodes(config.data.directory, config.data.val_split, view="robot")
        quality = laq_quality.evaluate(model, state, robot, config.data, config.evaluation.pairs)  # 9
        laq_quality.save(WORKDIR.value, writer, int(state.step), quality)


if __name__ == "__main__":
    launch.run(main)
