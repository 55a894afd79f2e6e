"""Accelerators by name: what their makers say of one of them."""

import dataclasses

from lapa_jax import errors

GIB = 2**30
GOOGLE = "https://docs.cloud.google.com/tpu/docs/"
NVIDIA = "https://www.nvidia.com/en-us/data-center/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """
    Attributes:
        name: as in a topology.
        kind: part of JAX's `device_kind`.
        bfloat16: dense products of that dtype with float32 sums, FLOP/s.
        float32: products of float32 as JAX runs them by default (one bfloat16 pass on TPUs, TF32 on GPUs), FLOP/s.
        highest: the same at `precision="highest"`, FLOP/s.
        memory: bytes that a program may have.
        bandwidth: of that memory, bytes/s.
        links: one way out of a device to its neighbours, over all links, bytes/s.
        axes: of the torus that these make; 0: a switch, which lets any two speak at full speed.
        wraps: lengths of an axis that close to a ring: multiples of this.
        network: one way out of a device's share of its host's network, bytes/s.
        host: devices of a host.
        source: where the numbers are from.
    """

    name: str
    kind: str
    bfloat16: float
    float32: float
    highest: float
    memory: float
    bandwidth: float
    links: float
    axes: int
    wraps: int
    network: float
    host: int
    source: str

    def flops(self, dtype: str) -> float:
        """Peak FLOP/s of products of a dtype of `work.DTYPES`."""
        return getattr(self, dtype)


def _tpu(
    name: str, kind: str, tflops: float, gib: float, gb_s: float, ici: float, axes: int, wraps: int, nic: float,
    host: int, source: str,
) -> Chip:  # fmt: skip
    """A product of float32 is one pass of bfloat16 by default, and six at the highest precision."""
    peak = tflops * 1e12
    return Chip(
        name, kind, peak, peak, peak / 6, gib * GIB, gb_s * 1e9, ici * 1e9, axes, wraps, nic * 1e9, host,
        GOOGLE + source,
    )  # fmt: skip


def _gpu(
    name: str, kind: str, tflops: float, tf32: float, fp32: float, gb: float, gb_s: float, nvlink: float,
    nic: float, source: str, host: int = 8,
) -> Chip:  # fmt: skip
    return Chip(
        name, kind, tflops * 1e12, tf32 * 1e12, fp32 * 1e12, gb * 1e9, gb_s * 1e9, nvlink * 1e9, 0, 1, nic * 1e9,
        host, NVIDIA + source,
    )  # fmt: skip


CHIPS = {
    chip.name: chip
    for chip in (
        # TFLOP/s, GiB, GB/s of memory, GB/s of links one way (half of "bidirectional"), axes, ring, GB/s of network
        _tpu("v4", "TPU v4", 275, 32, 1200, 150, 3, 4, 6.25, 4, "v4"),
        _tpu("v5e", "TPU v5 lite", 197, 16, 819, 200, 2, 16, 3.125, 8, "v5e"),
        _tpu("v5p", "TPU v5", 459, 95, 2765, 600, 3, 4, 6.25, 4, "v5p"),
        _tpu("v6e", "TPU v6 lite", 918, 32, 1638, 400, 2, 16, 12.5, 8, "v6e"),
        # TFLOP/s of bfloat16, TF32, FP32, GB, GB/s of memory, GB/s of NVLink or PCIe one way, GB/s of network
        _gpu("h100pcie", "H100 PCIe", 756, 378, 51, 80, 2000, 300, 50, "h100/"),
        _gpu("h100", "H100", 989, 494, 67, 80, 3350, 450, 50, "h100/"),
        _gpu("h200", "H200", 989, 494, 67, 141, 4800, 450, 50, "h200/"),
        _gpu("b200", "B200", 2250, 1125, 80, 180, 8000, 900, 50, "dgx-b200/"),
        _gpu("a100", "A100-SXM4-80GB", 312, 156, 19.5, 80, 2039, 300, 25, "a100/"),
        _gpu("a100-40", "A100-SXM4-40GB", 312, 156, 19.5, 40, 1555, 300, 25, "a100/"),
        _gpu("l40s", "L40S", 362, 183, 91.6, 48, 864, 32, 12.5, "l40s/"),
        _gpu("rtx4090", "RTX 4090", 165, 82.6, 82.6, 24, 1008, 32, 3, "../geforce/"),
    )
}
"""Name -> chip; where one's `kind` is part of another's, the longer one comes first in `of`."""


def named(name: str) -> Chip:
    """
    Raises:
        UserError: there is none of that name.
    """
    if name not in CHIPS:
        raise errors.UserError(f"no chip {name!r} in the table; choose among {', '.join(CHIPS)}")
    return CHIPS[name]


def of(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None where the table lacks it (CPUs, for one)."""
    fitting = [chip for chip in CHIPS.values() if chip.kind in device_kind]
    return max(fitting, key=lambda chip: len(chip.kind), default=None)
