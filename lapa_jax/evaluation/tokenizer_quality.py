"""How good an image tokenizer is, on held-out frames: what it rebuilds, and how many codes it says that in."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import metrics, sharding, training
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import transforms
from lapa_jax.evaluation import laq_quality
from lapa_jax.models import vqgan

SHOWN = 8
"""Frames of the gallery."""


def sample(mixture: episodes_lib.Mixture, count: int, image_size: int, seed: int = 0) -> np.ndarray:
    """Up to `count` frames uint8[N, H, W, 3], as many from each dataset, in stored order."""
    each, frames = -(-count // len(mixture.members)), []
    for members in mixture.members:
        index = transforms.StepIndex(members.lengths)
        chosen = np.random.default_rng(seed).choice(len(index), min(each, len(index)), replace=False)
        frames += [members.frame(*index[int(i)], image_size) for i in np.sort(chosen)]
    return np.stack(frames)


def evaluate(
    model: vqgan.VQGAN, state: training.TrainState, held: episodes_lib.Mixture, image_size: int, num_frames: int
) -> dict[str, Any]:
    """Summary and gallery on `num_frames` held-out frames.

    Errors are of images in [0, 1]. `mean_mse` is that of the mean frame, which needs no code at all.
    """
    frames = sample(held, num_frames, image_size)
    ids, rebuilt = run(model, state, frames)
    target = frames.astype(np.float32) / 255.0
    mse = float(np.mean(np.square(rebuilt - target)))
    mean_mse = float(np.mean(np.square(target - target.mean(axis=0))))
    usage = np.bincount(ids.reshape(-1), minlength=model.num_codes) / ids.size
    summary = {
        "mse": mse,
        "mae": float(np.mean(np.abs(rebuilt - target))),
        "psnr": float(-10.0 * np.log10(mse + 1e-12)),
        "mean_mse": mean_mse,
        "improvement": 1.0 - mse / mean_mse if mean_mse else 0.0,
        "codes_used": int(np.sum(usage > 0)),
        "num_codes": model.num_codes,
        "perplexity": float(metrics.perplexity(jnp.asarray(usage))),
        "tokens_per_frame": int(ids[0].size),
        "held_out_frames": len(frames),
    }
    rows = np.linspace(0, len(frames) - 1, SHOWN).astype(int)
    gallery = {"frame": frames[rows], "ids": ids[rows], "reconstruction": laq_quality.to_uint8(rebuilt[rows])}
    return {"summary": summary, "gallery": gallery}


def run(model: vqgan.VQGAN, state: training.TrainState, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32[N, h, w] of frames uint8[N, H, W, 3], and what they decode to: float32[N, H, W, 3] in [0, 1]."""

    @jax.jit
    def forward(variables: Any, frames: jax.Array) -> tuple[jax.Array, jax.Array]:
        ids = model.apply(variables, frames, method="encode").ids
        return ids, 0.5 * (model.apply(variables, ids, method="decode") + 1.0)

    variables = {"params": state.params, **state.variables}
    found = ((sharding.fetched(forward(variables, part)), kept) for part, kept in laq_quality.chunks(frames))
    parts = [[x[:kept] for x in part] for part, kept in found]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def save(workdir: str | pathlib.Path, writer: metrics.Writer, step: int, quality: Mapping[str, Any]) -> None:
    """`summary.json`, `gallery.npz` and a line of held-out metrics."""
    if jax.process_index():
        return
    summary = quality["summary"]
    np.savez_compressed(pathlib.Path(workdir) / "gallery.npz", **quality["gallery"])
    shown = {key: summary[key] for key in ("psnr", "mae", "mean_mse", "improvement", "codes_used", "perplexity")}
    writer.write(step, {"loss": summary["mse"], **shown}, split="val")
    metrics.summarise(workdir, summary)
