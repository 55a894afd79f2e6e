"""Our LAQ on an accelerator, without an opponent: samples a second and the share of the chip's peak (MFU)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax import errors, training
from lapa_jax.models import laq
from laq_speed import ours, sizes
from race import accelerator

TASKS = ("label", "train")


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of one task at one batch size.

    Attributes:
        task: "train" or "label".
        batch: pairs.
        pairs_per_s: median over the rounds.
        used: of the device, by `sizes.train_flops` or `label_flops`.
    """

    task: str
    batch: int
    pairs_per_s: float
    used: accelerator.Used


def table(
    size: str, batches: list[int], seconds: float, rounds: int, remat: bool, peak: float | None
) -> list[Speed]:
    """All that fits, printed as it is found; of what does not fit, a line.

    Args:
        seconds: for all of it together, compiling on top.
        peak: bfloat16 TFLOP/s of the device; None looks it up.
    """
    peak = accelerator.peak_tflops(jax.devices()[0].device_kind, peak)
    print(f"{size}, bfloat16, {accelerator.device()}, {accelerator.known(peak)}", flush=True)
    found, each = [], seconds / len(TASKS) / len(batches)
    for task in TASKS:
        network = Alone(sizes.SIZES[size], remat)
        for batch in sorted(batches):
            try:
                found.append(network.measure(task, batch, each, rounds, peak))
            except errors.UserError as error:
                print(f"{task:6} {error}", flush=True)
                break
            print(_line(found[-1]), flush=True)
    return found


def _line(speed: Speed) -> str:
    return f"{speed.task:6} batch {speed.batch:4} {speed.pairs_per_s:8.1f} pairs/s, {speed.used.line()}"


class Alone:
    """The network of `size` at random weights, computing in bfloat16 over float32 parameters.

    Args:
        remat: recompute layers in the backward pass.
    """

    def __init__(self, size: sizes.Sizes, remat: bool = False) -> None:
        self.size = size
        self.model = ours.make_model(size, dtype=jnp.bfloat16, remat=remat)
        self._step, tx = ours.make_step(self.model)
        init = training.make_init(laq.init_fn(self.model, size.image_size), tx)
        self.state = jax.jit(init)(jax.random.key(0))
        self._label = jax.jit(ours.make_label(self.model))

    def measure(self, task: str, batch: int, seconds: float, rounds: int, peak: float | None) -> Speed:
        """
        Raises:
            UserError: it does not fit into the device's memory.
        """
        pair = tuple(jnp.asarray(frames) for frames in sizes.batch(self.size, batch))
        run = self._train(pair) if task == "train" else self._encode(pair)
        took = accelerator.median_seconds(run, seconds, rounds)
        if took is None:
            raise errors.UserError(f"{task} with batch {batch} does not fit: --remat, or smaller --batches")
        speed = batch / took
        flops = sizes.train_flops(self.size) if task == "train" else sizes.label_flops(self.size)
        return Speed(task, batch, speed, accelerator.Used.of(flops * speed, peak))

    def _train(self, pair: tuple[jax.Array, jax.Array]) -> Callable[[], Any]:
        def run() -> Any:
            self.state, metrics = self._step(self.state, pair)
            return metrics["loss"]

        return run

    def _encode(self, pair: tuple[jax.Array, jax.Array]) -> Callable[[], Any]:
        return lambda: self._label({"params": self.state.params, **self.state.variables}, *pair)
