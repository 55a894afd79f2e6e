"""Stage 1: learn a codebook of latent actions from pairs of video frames; no actions are read.

    python experiments/train_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/demo/laq
"""

from typing import Any

import jax
import launch

from lapa_jax import checkpoints, losses, metrics, optimizers, training
from lapa_jax.data import loader, sources
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
    mesh = launch.start(config)  # 1 devices

    data = config.data
    video = sources.open_mixture(data, data.train_split, "video")  # 2 data
    robot = sources.open_mixture(data, data.val_split, "robot")  # probes, at the end
    batches = loader.frame_pairs(
        video.decoded(data.image_size) if data.decode_once else video, sources.gap_of(data),
        config.batch_size, config.seed, data.image_size, **sources.reading(data), **launch.shares(),
    )

    model = laq.LatentActionQuantizer(**config.model)  # 3 model: a value, no weights yet
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 4 optimizer
    loss_fn = make_loss(model, config.loss.change_weight)  # 5 the experiment itself
    init = training.make_init(laq_quality.init_fn(model, data.image_size), tx)

    assets = {"dataset": video.fingerprint}
    abstract = training.abstract_state(init, mesh)  # 6 weights, born sharded
    saved = checkpoints.Checkpoints(WORKDIR.value, config.to_dict(), assets, **config.checkpoint)
    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, lambda: training.init_sharded(init, mesh, config.seed), batches)
        step = training.make_train_step(loss_fn, tx, config.seed)  # 7 resume > scratch
        writer = metrics.Writer(WORKDIR.value, "laq")
        state = training.fit(  # 8 the loop, shared by all stages
            state, step, batches, saved, writer, mesh, config.num_steps, config.log_every, schedule
        )
        quality = laq_quality.evaluate(model, state, robot, data, config.evaluation.pairs)  # 9 held-out
        laq_quality.save(WORKDIR.value, writer, int(state.step), quality)


if __name__ == "__main__":
    launch.run(main)
