"""The image tokenizer: learn to say a frame in discrete codes, from single frames of any video.

    python experiments/train_tokenizer.py --config=experiments/configs/train_tokenizer.py:demo \
        --workdir=runs/demo/tokenizer
"""

import functools
from collections.abc import Mapping
from typing import Any

import codes_parts
import jax
import jax.numpy as jnp
import launch
import measuring

from lapa_jax import checkpoints, errors, hosts, metrics, optimizers, training
from lapa_jax.convert import towers
from lapa_jax.data import episodes, loader, sources
from lapa_jax.evaluation import tokenizer_quality
from lapa_jax.models import perceptual as tower_lib
from lapa_jax.models import vqgan

CONFIG, WORKDIR = launch.define("train_tokenizer")


def make_loss(
    model: vqgan.VQGAN,
    squared: float = 1.0,
    absolute: float = 0.0,
    perceptual: float = 0.0,
    tower: Mapping[str, Any] | None = None,
) -> training.LossFn:
    """Rebuild the frame from its codes; the weights are those of the config, `tower` the spec of the frozen one."""

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        state = {name: value for name, value in variables.items() if name != tower_lib.FROZEN}
        out, new = model.apply(
            {"params": params, **state}, batch["frame"], train=True, mutable=list(state), rngs={"noise": key}
        )
        target = vqgan.to_signed(batch["frame"])
        error = out.reconstruction - target
        loss = out.loss + squared * jnp.mean(jnp.square(error)) + absolute * jnp.mean(jnp.abs(error))
        seen, wanted = (0.5 * (x + 1.0) for x in (out.reconstruction, target))
        usage = metrics.code_usage(out.codes.ids, model.num_codes)
        log = {"psnr": metrics.psnr(seen, wanted), "perplexity": metrics.perplexity(usage)}
        log |= {"codes_used": jnp.sum(usage > 0)} | out.log
        if perceptual:
            look = functools.partial(tower_lib.features, tower, variables[tower_lib.FROZEN]["tower"])
            log["perceptual"] = jnp.mean(jnp.square(look(seen) - jax.lax.stop_gradient(look(wanted))))
            loss += perceptual * log["perceptual"]
        return loss, (log, {**variables, **new})

    return loss_fn


def load_tower(config: Any) -> tuple[Mapping[str, Any] | None, Any]:
    """Spec and weights of the frozen tower, if the loss looks through one.

    Raises:
        UserError: one is needed and not given, or given and not needed.
    """
    path, weight = config.tower.path, config.loss.perceptual
    if path is None and not weight:
        return None, None
    if path is None:
        raise errors.UserError("loss.perceptual needs a tower: give --config.tower.path of one")
    if not weight:
        raise errors.UserError("config.tower.path is for loss.perceptual, which is 0: give a weight")
    return towers.load_tower(path, config.tower.dtype)


def make_init_fn(model: vqgan.VQGAN, image_size: int, tower: Mapping[str, Any] | None) -> Any:
    """key -> initial variables, with room for the tower's weights."""
    init_fn = vqgan.init_fn(model, image_size)
    if tower is None:
        return init_fn
    frozen = functools.partial(tower_lib.random_tower, tower, image_size=image_size)
    return lambda key: {**init_fn(key), tower_lib.FROZEN: {"tower": frozen(key)}}


def main(_: Any) -> None:
    config = CONFIG.value
    mesh = launch.start(config)  # 1 devices
    data = config.data  # 2
    with hosts.main_first("data"):  # what it indexes and decodes the others find
        video, held = (sources.open_mixture(data, split, "video") for split in (data.train_split, data.val_split))
    train(config, WORKDIR.value, mesh, video.decoded(data.image_size) if data.decode_once else video, held)


def train(
    config: Any, workdir: str, mesh: jax.sharding.Mesh, video: episodes.Mixture, held: episodes.Mixture
) -> None:
    """One run, from the data to its summary; goes on where a killed one stopped."""
    data, (tower, weights) = config.data, load_tower(config)
    reading = sources.reading(data) | launch.shares(mesh)
    frames = loader.frames(video, config.batch_size, config.seed, data.image_size, **reading)
    batches = measuring.source(config, frames)

    model = vqgan.from_config(config.model.to_dict())  # 3 model: a value, no weights yet
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 4 optimizer
    loss_fn = make_loss(model, **config.loss, tower=tower)  # 5 the experiment itself
    init_fn = make_init_fn(model, data.image_size, tower)
    init = training.make_init(init_fn, tx, config.param_dtype, config.frozen_dtype)
    abstract = training.abstract_state(init, mesh)  # 6 weights, born sharded
    saved = checkpoints.Checkpoints(workdir, config.to_dict(), {"dataset": video.fingerprint}, **config.checkpoint)

    def first() -> training.TrainState:
        return codes_parts.with_tower(training.init_sharded(init, mesh, config.seed), abstract, weights)

    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, first, batches)  # 7 resume > scratch
        maintain = codes_parts.make_maintain(model, config.accumulate)
        step = training.make_train_step(loss_fn, tx, config.seed, maintain, accumulate=config.accumulate)
        writer = metrics.Writer(workdir, "tokenizer")
        speed = measuring.speedometer(config, workdir, mesh, lambda: step)  # there is no remat
        state = training.fit(  # 8 the loop, shared by all stages
            state, step, batches, saved, writer, mesh, config.num_steps, config.log_every, schedule, speed
        )
        state = state.for_evaluation()  # 9 held-out
        quality = tokenizer_quality.evaluate(model, state, held, data.image_size, config.evaluation.frames)
        tokenizer_quality.save(workdir, writer, int(state.step), quality)


if __name__ == "__main__":
    launch.run(main)
