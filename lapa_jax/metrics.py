"""Codebook health, image and token metrics; writers for console, JSONL and TensorBoard."""

import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SPEED = {
    "first_step_seconds": "first step {} s",
    "steps_per_second": "{} steps/s",
    "samples_per_second": "{} samples/s",
    "tokens_per_second": "{} tokens/s",
    "mfu": "MFU {:.1%}",
    "data_wait": "data wait {:.0%}",
    "host_wait": "host wait {:.0%}",
    "memory_peak_gib": "{} GiB",
}
"""How the console shows what `speed` measures, after all else."""
_QUIET = (
    "learning_rate", "copy_mse", "perplexity_worst", "perplexity_joint", "z_offset",
    "tokens_per_second_padded", "mfu_padded",
)


def code_usage(codes: jax.Array, num_codes: int) -> jax.Array:
    """Fraction of each code among int[...] codes: float[K]."""
    return jnp.mean(jax.nn.one_hot(codes.reshape(-1), num_codes), axis=0)


def perplexity(usage: jax.Array) -> jax.Array:
    """exp(entropy) of a distribution float[K]: the effective number of codes."""
    return jnp.exp(-jnp.sum(usage * jnp.log(usage + 1e-12)))


def position_usage(codes: jax.Array, num_codes: int) -> jax.Array:
    """Fraction of each code at each position of int[B, N] codes: float[N, K]."""
    return jnp.mean(jax.nn.one_hot(codes, num_codes), axis=0)


def joint_perplexity(codes: jax.Array) -> jax.Array:
    """Effective number of different sequences among int[B, N] codes, at most B.

    Sequences are compared by a 32-bit hash, so that any number of codes and positions will do.
    """
    factors = np.random.default_rng(0).integers(1, 2**32, codes.shape[1], dtype=np.uint32) | np.uint32(1)
    mixed = (codes.astype(jnp.uint32) + 1) * factors
    words = jnp.sum((mixed ^ (mixed >> 15)) * jnp.uint32(2654435761), axis=1, dtype=jnp.uint32)
    share = jnp.mean(words[:, None] == words[None], axis=1)
    return jnp.exp(-jnp.mean(jnp.log(share)))


def code_health(codes: jax.Array, num_codes: int) -> dict[str, jax.Array]:
    """Whether codes int[B, N] are in use: scalars over the global batch."""
    usage = position_usage(codes, num_codes)
    each = jax.vmap(perplexity)(usage)
    positions = {f"perplexity/{n}": each[n] for n in range(codes.shape[1])} if codes.shape[1] > 1 else {}
    return {
        "perplexity": perplexity(jnp.mean(usage, axis=0)),
        "perplexity_worst": jnp.min(each),
        "perplexity_joint": joint_perplexity(codes),
        "codes_used": jnp.sum(jnp.max(usage, axis=0) > 0),
        **positions,
    }


def z_health(z: jax.Array) -> dict[str, jax.Array]:
    """Standard deviation of float[B, N, D] over the batch, and the length of its mean in that unit."""
    mean = jnp.mean(z, axis=0)
    std = jnp.sqrt(jnp.mean(jnp.square(z - mean)) + 1e-20)
    return {"z_std": std, "z_offset": jnp.sqrt(jnp.mean(jnp.square(mean))) / std}


def psnr(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB of images in [0, 1], over all of them."""
    return -10.0 * jnp.log10(jnp.mean(jnp.square(prediction - target)) + 1e-12)


def reconstruction(prediction: jax.Array, target: jax.Array, frame: jax.Array) -> dict[str, jax.Array]:
    """PSNR of a predicted next frame float[B, H, W, C], and of copying the first one instead."""
    copy_mse = jnp.mean(jnp.square(frame - target))
    return {"psnr": psnr(prediction, target), "copy_psnr": psnr(frame, target), "copy_mse": copy_mse}


def accuracy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Fraction of positions whose largest logit is the target."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == targets)


class _Short(float):
    """A number that is read at a glance: three digits, or whole thousands apart."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec or (".3g" if abs(self) < 1000 else ",.0f"))


class Writer:
    """Metrics of one run: a line on the console, a line of JSON, and TensorBoard scalars.

    Only process 0 writes.
    """

    def __init__(self, workdir: str | pathlib.Path, name: str) -> None:
        self.name = name
        self.main = jax.process_index() == 0
        self.total, self.last = 0, (0, time.perf_counter())
        if self.main:
            from tensorboardX import SummaryWriter

            self.path = pathlib.Path(workdir) / "metrics.jsonl"
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.board = SummaryWriter(str(self.path.parent / "tensorboard"))

    def begin(self, step: int, total: int) -> None:
        """Say where training starts; lines of a run that went further than its checkpoint are dropped."""
        self.total = total
        if self.main:
            self._forget_after(step)
            print(f"[{self.name}] step {step} of {total}", flush=True)

    def write(self, step: int, values: Mapping[str, float], split: str = "train") -> None:
        """Record scalars; training lines show speed and the time left."""
        if not self.main:
            return
        row = {"step": step, "time": round(time.time(), 3), "split": split, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for key, value in values.items():
            self.board.add_scalar(f"{split}/{key}", value, step)
        self.board.flush()
        print(self._line(step, values, split), flush=True)

    def _line(self, step: int, values: Mapping[str, float], split: str) -> str:
        quiet = (*_QUIET, *_SPEED)
        shown = [f"{k} {v:.4g}" for k, v in values.items() if k not in quiet and "/" not in k]
        shown += [text.format(_Short(values[k])) for k, text in _SPEED.items() if k in values]
        if speed := values.get("steps_per_second"):
            left = int((self.total - step) / speed)
            shown += [f"ETA {left // 60}:{left % 60:02d}"]
        where = f"step {step}/{self.total}" if split == "train" else f"{split} at step {step}"
        return f"[{self.name}] {where}  " + "  ".join(shown)

    def _forget_after(self, step: int) -> None:
        if self.path.exists():
            kept = [json.dumps(row) + "\n" for row in _whole_rows(self.path) if row["step"] <= step]
            self.path.write_text("".join(kept))


def _whole_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; of a last one that a killed run left half-written nothing is kept."""
    lines = path.read_text().splitlines()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        return [json.loads(line) for line in lines[:-1]]


def _origin(config: pathlib.Path) -> dict[str, bool]:
    """Whether a run's data was `data.synthetic`; nothing where it was not."""
    data = json.loads(config.read_text()).get("data", {}) if config.exists() else {}
    return {"synthetic": True} if isinstance(data, dict) and data.get("synthetic") else {}


def summarise(workdir: str | pathlib.Path, summary: Mapping[str, object]) -> None:
    """Write `summary.json` of a finished stage, whole or not at all (process 0 only).

    That of a run on synthetic data says so first.
    """
    if jax.process_index() == 0:
        path = pathlib.Path(workdir) / "summary.json"
        summary = {**_origin(path.with_name("config.json")), **summary}
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps(summary, indent=1, default=np.ndarray.tolist) + "\n")
        scratch.rename(path)
