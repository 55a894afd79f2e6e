"""Ours alone on an accelerator: its peak, seconds a step without waiting, and what does not fit."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from lapa_jax.planning import chips


@dataclasses.dataclass(frozen=True)
class Used:
    """Of the device, by one task.

    Attributes:
        tflops: matrix products a second; what is computed again (remat) is not counted.
        mfu: share of the peak; None where the peak is not known.
        peak_bytes: device memory since the process began; None where the device does not say.
    """

    tflops: float
    mfu: float | None
    peak_bytes: int | None

    @classmethod
    def of(cls, flops_per_s: float, peak: float | None) -> "Used":
        """peak: TFLOP/s."""
        memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        tflops = flops_per_s / 1e12
        return cls(tflops, tflops / peak if peak else None, memory)

    def line(self) -> str:
        mfu = "" if self.mfu is None else f", MFU {self.mfu:.1%}"
        memory = "" if self.peak_bytes is None else f", memory {self.peak_bytes / 2**30:.1f} GiB"
        return f"{self.tflops:.2f} TFLOP/s{mfu}{memory}"


def device() -> str:
    """Its kind, and how many there are; one is used."""
    return f"{jax.devices()[0].device_kind} (1 of {jax.device_count()})"


def peak_tflops(kind: str, given: float | None = None) -> float | None:
    """Of a `device_kind`, unless one is given."""
    if given is not None:
        return given
    chip = chips.of(kind)
    return None if chip is None else chip.bfloat16 / 1e12


def known(peak: float | None) -> str:
    return f"peak {peak:.0f} TFLOP/s" if peak else "peak unknown: --peak_tflops gives an MFU"


def seconds_a_step(run: Callable[[], Any], seconds: float) -> float | None:
    """Steps are dispatched without waiting, as training does, for about that long after two to warm up.

    Returns:
        None where the device's memory does not suffice.
    """
    try:
        jax.block_until_ready(run())
        begun = time.perf_counter()
        jax.block_until_ready(run())
        steps = max(round(seconds / (time.perf_counter() - begun)), 1)
        begun = time.perf_counter()
        last = None
        for _ in range(steps):
            last = run()
        jax.block_until_ready(last)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return (time.perf_counter() - begun) / steps


def median_seconds(run: Callable[[], Any], seconds: float, rounds: int) -> float | None:
    """`seconds_a_step` over rounds that take about so many seconds together; None where one does not fit."""
    took = [seconds_a_step(run, seconds / rounds) for _ in range(rounds)]
    return None if None in took else statistics.median(took)
