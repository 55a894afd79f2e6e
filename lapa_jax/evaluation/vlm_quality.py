"""How well the VLM predicts held-out latent actions, beside two baselines that know less."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import training
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import latents as latents_lib
from lapa_jax.data import loader, prompts


def init_fn(model: Any, text_length: int, image_size: int, code_length: int) -> Callable:
    """key -> initial flax variables of the VLM."""
    text = jnp.ones((1, text_length), jnp.int32)
    latents = jnp.zeros((1, code_length), jnp.int32)
    return lambda key: model.init(key, text, blank_image(model, image_size), latents)


def blank_image(model: Any, image_size: int) -> jax.Array:
    """One image in the form the model takes: uint8 pixels, or vision ids where it has no stem."""
    if model.image_stem is None:
        return jnp.zeros((1, model.num_image_tokens), jnp.int32)
    return jnp.zeros((1, image_size, image_size, 3), jnp.uint8)


def evaluate(
    model: Any,
    state: training.TrainState,
    video: episodes_lib.Mixture,
    labels: Sequence[latents_lib.Latents],
    majority: np.ndarray,
    tokenizer: prompts.Tokenizer,
    image_size: int,
    num_steps: int,
) -> dict[str, Any]:
    """Accuracy per latent token (teacher-forced) on held-out episodes.

    Args:
        majority: int[N], the commonest training code at each position.

    Returns:
        `code_accuracy`; `majority_accuracy`, always answering `majority`; `blank_accuracy`, the same
        weights shown the image alone (trained for it by `blank_instruction_rate`).
    """
    streams = [
        loader.latent_stream(member, codes, tokenizer, 100, image_size=image_size, repeat=False, shuffle=True)
        for member, codes in zip(video.members, labels, strict=True)
    ]
    forward = jax.jit(lambda p, t, i, c: jnp.argmax(model.apply({"params": p}, t, i, c)["latent"], -1))
    blank = np.tile(tokenizer.encode_blank(), (100, 1))
    hits: dict[str, list] = {"code": [], "majority": [], "blank": []}
    calls = -(-num_steps // (100 * len(streams)))
    for batch in itertools.chain.from_iterable(itertools.islice(stream, calls) for stream in streams):
        rows = len(batch["text"])  # the last batch may be short: padded, so that one compilation serves
        text, image, codes = (np.resize(batch[k], (100, *batch[k].shape[1:])) for k in ("text", "image", "latents"))
        hits["code"].append((np.asarray(forward(state.params, text, image, codes)) == codes)[:rows])
        hits["blank"].append((np.asarray(forward(state.params, blank, image, codes)) == codes)[:rows])
        hits["majority"].append((majority == codes)[:rows])
    every = {name: np.concatenate(rows) for name, rows in hits.items()}
    summary: dict[str, Any] = {f"{name}_accuracy": float(np.mean(rows)) for name, rows in every.items()}
    return summary | {"held_out_steps": len(every["code"])}


def majority_codes(labels: Sequence[latents_lib.Latents]) -> np.ndarray:
    """int[N]: the commonest code at each position, over all datasets."""
    codes = np.concatenate([found.codes(e) for found in labels for e in range(len(found))])
    return np.array([np.bincount(column, minlength=labels[0].num_codes).argmax() for column in codes.T])


def log_line(summary: Mapping[str, Any]) -> dict[str, float]:
    """The part of the summary for metrics.jsonl."""
    return {name: value for name, value in summary.items() if name.endswith("accuracy")}
