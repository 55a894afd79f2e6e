"""Stage 2: predict the latent action from the current image and the instruction; no actions are read.

    python experiments/pretrain_vlm.py --config=experiments/configs/pretrain_vlm.py:demo \
        --workdir=runs/demo/vlm --config.data.latents=runs/demo/latents
"""

from typing import Any

import jax
import launch

from lapa_jax import checkpoints, errors, losses, metrics, optimizers, training
from lapa_jax.data import episodes, latents, loader, prompts, sources
from lapa_jax.evaluation import vlm_quality
from lapa_jax.models import vlm

CONFIG, WORKDIR = launch.define("pretrain_vlm")


def make_loss(model: vlm.LatentActionVLM) -> training.LossFn:
    """Cross-entropy of the latent action tokens."""

    def loss_fn(params: Any, variables: Any, batch: training.Batch, key: jax.Array) -> Any:
        del key
        logits = model.apply({"params": params}, batch["text"], batch["image"], batch["latents"])["latent"]
        log = {"code_accuracy": metrics.accuracy(logits, batch["latents"])}
        return losses.token_cross_entropy(logits, batch["latents"]), (log, variables)

    return loss_fn


def open_labelled(data: Any, split: str) -> tuple[episodes.Mixture, list[latents.Latents]]:
    """The video view of a split and the latent actions of its pairs, one a dataset."""
    video = sources.open_mixture(data, split, "video")
    folders = [latents.folder(data.latents, split, video, i) for i in range(len(video.members))]
    return video, [latents.open_latents(*pair) for pair in zip(folders, video.members, strict=True)]


def main(_: Any) -> None:
    config = CONFIG.value
    data = config.data
    if data.latents is None:
        raise errors.UserError("which latent actions? give --config.data.latents=FOLDER of a label_latents run")
    if config.model.image_stem is None:
        raise errors.UserError(
            "model.image_stem is None: images would have to be vision tokens, and no image tokenizer is here "
            "yet; choose the size full or demo, or set an image stem"
        )
    mesh = launch.start(config)  # 1 devices

    video, labels = open_labelled(data, data.train_split)  # 2 data
    held_out, held_out_labels = open_labelled(data, data.val_split)
    tokenizer = prompts.train_tokenizer(video.instructions, data.text_length)
    batches = loader.latent_stream(
        video.decoded(data.image_size) if data.decode_once else video, labels, tokenizer,
        config.batch_size, config.seed, data.image_size, data.blank_instruction_rate,
        **sources.reading(data), **launch.shares(),
    )

    model = vlm.from_config(config.model, tokenizer.vocab_size)  # 3 model
    tx, schedule = optimizers.make(config.num_steps, **config.optimizer)  # 4 optimizer
    loss_fn = make_loss(model)  # 5 the experiment itself
    init_fn = vlm_quality.init_fn(model, data.text_length, data.image_size, labels[0].code_length)
    init = training.make_init(init_fn, tx, config.param_dtype, config.frozen_dtype)

    assets = {"tokenizer": tokenizer.to_json(), "latents": labels[0].provenance.checkpoint}
    abstract = training.abstract_state(init, mesh)  # 6 weights, born sharded
    saved = checkpoints.Checkpoints(WORKDIR.value, config.to_dict(), assets, **config.checkpoint)
    with jax.set_mesh(mesh), saved:
        state = saved.restore_or(abstract, lambda: training.init_sharded(init, mesh, config.seed), batches)
        step = training.make_train_step(loss_fn, tx, config.seed, accumulate=config.accumulate)  # 7 resume, scratch
        writer = metrics.Writer(WORKDIR.value, "vlm")
        state = training.fit(  # 8 the loop, shared by all stages
            state, step, batches, saved, writer, mesh, config.num_steps, config.log_every, schedule
        )
        summary = vlm_quality.evaluate(  # 9 held-out accuracy
            model, state.for_evaluation(), held_out, held_out_labels, vlm_quality.majority_codes(labels), tokenizer,
            data.image_size, config.evaluation.steps,
        )
        writer.write(int(state.step), vlm_quality.log_line(summary), split="val")
        metrics.summarise(WORKDIR.value, summary)


if __name__ == "__main__":
    launch.run(main)
