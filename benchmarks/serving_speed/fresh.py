"""A policy with random weights, for those who measure without a trained one."""

import pathlib

import jax
import numpy as np

from lapa_jax import checkpoints, sharding, trained, training
from lapa_jax.actions import task as task_lib
from lapa_jax.data import layouts, prompts, statistics

INSTRUCTION = "push the red cube to the left side"
MODEL = {
    "size": "debug", "vocabs": {"text": 0, "latent": 8}, "heads": ("latent",), "image": "stem", "remat": "none",
    "theta": 1e4, "dtype": "float32", "image_stem": {"channels": 16, "num_heads": 4, "keypoints": 8},
}  # fmt: skip


def write(folder: pathlib.Path, image_size: int = 64, horizon: int = 4, action_dim: int = 7) -> None:
    """A finetune run's folder with one checkpoint of the smallest network."""
    random = np.random.default_rng(0)
    tokenizer = prompts.train_tokenizer([INSTRUCTION], length=12)
    places = tokenizer.length + 1  # as many as the stem makes: one a word, and one
    layout = layouts.Clean(tokenizer, num_image_tokens=places, code_length=4, by_word=True)
    planner = trained.Planner.of(MODEL, layout, None, image_size=image_size)
    actions = [random.uniform(-0.03, 0.03, (50, action_dim)).astype(np.float32)]
    head = {"kind": "latents", "horizon": horizon, "width": 64}
    task = task_lib.ActionTask.of(planner, head, statistics.compute(actions, "quantile"))
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    with jax.set_mesh(mesh):
        state = training.init_sharded(training.make_init(task.init_fn()), mesh, seed=0)
    with checkpoints.Checkpoints(folder, {"seed": 0}, task.to_json()) as saved:
        saved.save(1, state, {"position": 0})
        saved.wait()
