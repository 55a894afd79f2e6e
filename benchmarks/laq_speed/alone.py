"""Our LAQ on an accelerator, without an opponent: samples a second and the share of the chip's peak (MFU)."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax import errors, training
from lapa_jax.models import laq
from laq_speed import ours, sizes

TASKS = ("label", "train")

PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
}
"""Part of `device_kind` -> dense bfloat16 TFLOP/s, from the makers' data sheets; the first that fits counts."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of one task at one batch size.

    Attributes:
        task: "train" or "label".
        batch: pairs.
        pairs_per_s: median over the rounds.
        tflops: matrix products a second, by `sizes.train_flops` or `label_flops`; remat's are not counted.
        mfu: share of the peak; None where the peak is not known.
        peak_bytes: device memory since the process began; None where the device does not say.
    """

    task: str
    batch: int
    pairs_per_s: float
    tflops: float
    mfu: float | None
    peak_bytes: int | None


def device() -> str:
    """Its kind, and how many there are; one is used."""
    return f"{jax.devices()[0].device_kind} (1 of {jax.device_count()})"


def table(
    size: str, batches: list[int], seconds: float, rounds: int, remat: bool, peak: float | None
) -> list[Speed]:
    """All that fits, printed as it is found; of what does not fit, a line.

    Args:
        seconds: for all of it together, compiling on top.
        peak: bfloat16 TFLOP/s of the device; None looks it up.
    """
    peak = peak_tflops(jax.devices()[0].device_kind, peak)
    known = f"peak {peak:.0f} TFLOP/s" if peak else "peak unknown: --peak_tflops gives an MFU"
    print(f"{size}, bfloat16, {device()}, {known}", flush=True)
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
    mfu = "" if speed.mfu is None else f", MFU {speed.mfu:.1%}"
    memory = "" if speed.peak_bytes is None else f", memory {speed.peak_bytes / 2**30:.1f} GiB"
    rate = f"{speed.pairs_per_s:8.1f} pairs/s, {speed.tflops:.2f} TFLOP/s"
    return f"{speed.task:6} batch {speed.batch:4} {rate}{mfu}{memory}"


def peak_tflops(kind: str, given: float | None = None) -> float | None:
    """Of a `device_kind`, unless one is given."""
    if given is not None:
        return given
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in kind), None)


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
        try:
            took = statistics.median(_seconds_a_step(run, seconds / rounds) for _ in range(rounds))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise errors.UserError(
                f"{task} with batch {batch} does not fit: --remat, or smaller --batches"
            ) from None
        flops = sizes.train_flops(self.size) if task == "train" else sizes.label_flops(self.size)
        tflops = flops * batch / took / 1e12
        memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return Speed(task, batch, batch / took, tflops, tflops / peak if peak else None, memory)

    def _train(self, pair: tuple[jax.Array, jax.Array]) -> Callable[[], Any]:
        def run() -> Any:
            self.state, metrics = self._step(self.state, pair)
            return metrics["loss"]

        return run

    def _encode(self, pair: tuple[jax.Array, jax.Array]) -> Callable[[], Any]:
        return lambda: self._label({"params": self.state.params, **self.state.variables}, *pair)


def _seconds_a_step(run: Callable[[], Any], seconds: float) -> float:
    """Steps are dispatched without waiting, as training does, for about that long after two to warm up."""
    jax.block_until_ready(run())
    begun = time.perf_counter()
    jax.block_until_ready(run())
    steps = max(round(seconds / (time.perf_counter() - begun)), 1)
    begun = time.perf_counter()
    last = None
    for _ in range(steps):
        last = run()
    jax.block_until_ready(last)
    return (time.perf_counter() - begun) / steps
