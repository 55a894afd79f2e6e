"""Machines by name, whose devices a program can be compiled for although they are not here."""

import dataclasses
import math
import os
import re
from typing import Any

import jax

from lapa_jax import errors
from lapa_jax.planning import chips

STAND_IN = "v5p"
"""TPUs that GPUs are planned with: their compiler runs anywhere, and computes in bfloat16 as GPUs do."""
CORES = {"v4": 2, "v5p": 2}
"""TensorCores of a chip, which is what slices such as v5p-32 are named by."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """
    Attributes:
        name: as it was given.
        chip: of all devices; None: CPUs.
        shape: of a slice, chips along each axis of its torus; of GPUs, hosts and devices of each.
        slices: how many, with only the hosts' network between them.
    """

    name: str
    chip: chips.Chip | None
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def size(self) -> int:
        """Devices."""
        return math.prod(self.shape) * self.slices

    @property
    def gpu(self) -> bool:
        return self.chip is not None and self.chip.axes == 0

    @property
    def near(self) -> int:
        """Devices that reach each other without the hosts' network."""
        return self.shape[1] if self.gpu else math.prod(self.shape)


def parse(name: str) -> Topology:
    """`v5e:8x16`, `v5p-32` (as clouds count), `v5e:8x16*2` (slices), `gpu:h100:8x4` (8 a host, 4 hosts), `cpu:8`.

    Raises:
        UserError: another text, a chip that the table lacks, or a slice that there is not.
    """
    found = re.fullmatch(r"(?:(gpu|tpu):)?([\w]+)(?::(\d+(?:x\d+)*)|-(\d+))(?:\*(\d+))?", name)
    if not found:
        raise errors.UserError(
            f"--topology={name}: give TPUs as v5e:8x16 or v5p-32, GPUs as gpu:h100:8x4 (8 a host, 4 hosts), or "
            "cpu:8"
        )
    kind, chip_name, dims, count, slices = found.groups()
    shape = tuple(int(n) for n in dims.split("x")) if dims else None
    slices = int(slices or 1)
    if chip_name == "cpu":
        return Topology(name, None, (math.prod(shape or (int(count),)),))
    chip = chips.named(chip_name)
    if (kind == "gpu") != (chip.axes == 0):
        raise errors.UserError(f"--topology={name}: {chip_name} is {'a GPU' if chip.axes == 0 else 'no GPU'}")
    if chip.axes == 0:
        per_host, *hosts = shape or (chip.host, int(count) // chip.host)
        return Topology(name, chip, (hosts[0] if hosts else 1, per_host))
    shape = shape or _slice(int(count) // CORES.get(chip_name, 1), chip)
    if not 2 <= len(shape) <= 3 or len(shape) > chip.axes:
        axes = f"slices of {chip.axes} axes"
        raise errors.UserError(f"--topology={name}: {chip_name} has {axes}, as {_example(chip)}")
    return Topology(name, chip, shape, slices)


def _example(chip: chips.Chip) -> str:
    return f"{chip.name}:" + "x".join(["4"] * chip.axes)


def _slice(count: int, chip: chips.Chip) -> tuple[int, ...]:
    """The most cubic shape of so many chips, with powers of two: 64 is 8x8, 16 in three axes is 2x2x4.

    Raises:
        UserError: the number is no power of two.
    """
    if count < 1 or count & (count - 1):
        raise errors.UserError(f"{count} chips of {chip.name} have no usual shape: give one, as {_example(chip)}")
    shape = [1] * chip.axes
    while math.prod(shape) < count:
        shape[min(range(len(shape)), key=lambda axis: (shape[axis], -axis))] *= 2
    return tuple(sorted(shape))


@dataclasses.dataclass(frozen=True)
class Compiler:
    """
    Attributes:
        devices: to make a mesh of.
        name: whose compiler it is.
        exact: it is that of the devices asked for; else its memory and volumes are a likeness.
    """

    devices: list[Any]
    name: str
    exact: bool


def compiler(topology: Topology) -> Compiler:
    """Devices to compile for. Call it before any other use of JAX.

    TPUs need the wheel `libtpu`. Instead of GPUs as many TPUs are compiled for where it is installed, and CPUs
    elsewhere, which compute in float32 and have no reduce-scatter: memory and volumes are then too large.

    Raises:
        UserError: there is no compiler for these devices.
    """
    if topology.chip is not None and not topology.gpu:
        devices = _tpus(topology.chip.name, topology.shape, topology.slices)
        return Compiler(devices, f"TPU {topology.chip.name}", True)
    if topology.gpu:
        try:
            shape = _slice(max(_power(topology.size), 4), chips.named(STAND_IN))
            return Compiler(_tpus(STAND_IN, shape)[: topology.size], f"TPU {STAND_IN}, as a likeness", False)
        except errors.UserError:
            pass
    jax.config.update("jax_num_cpu_devices", topology.size)
    jax.config.update("jax_platforms", "cpu")
    return Compiler(jax.devices(), "CPU, as a likeness", topology.chip is None)


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _tpus(name: str, shape: tuple[int, ...], slices: int = 1) -> list[Any]:
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu is not to look for the machine it is in
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor to lock what is not there
    jax.config.update("jax_platforms", "cpu")
    asked = f"{name}:{'x'.join(map(str, shape))}"
    more = {"num_slices": slices} if slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=asked, **more).devices)
    except Exception as error:  # of several kinds, by what is missing
        reason = " ".join(str(error).split())[:200]
        raise errors.UserError(
            f"no compiler for {asked} ({reason}): pip install libtpu==0.0.42.*, and give a slice that there is"
        ) from error
