"""Seconds of a step from what it computes and moves, and what its makers say that a chip can do.

Four times: products at their peak, traffic of the main memory, of the links between near devices, of the hosts'
network. A step takes at least the longest of them, and no more than their sum if one thing is done at a time, each
at its peak. Neither knows of kernels below their peak, of latencies, or of waiting for data.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from lapa_jax.planning import chips
from lapa_jax.planning.collectives import Collective
from lapa_jax.planning.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Estimate:
    """
    Attributes:
        compute, memory, links, network: seconds a step, each as if it was alone.
        needed: FLOPs that the model needs in a step, on all devices.
        peak: FLOP/s of all devices, in bfloat16.
    """

    compute: float
    memory: float
    links: float
    network: float
    needed: float
    peak: float

    @property
    def shortest(self) -> float:
        """Seconds a step where all is done at once."""
        return max(self.compute, self.memory, self.links, self.network)

    @property
    def longest(self) -> float:
        """Seconds a step where nothing is done at once."""
        return self.compute + self.memory + self.links + self.network

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(("compute", "memory", "links", "network"), key=lambda name: getattr(self, name))

    def mfu(self, seconds: float) -> float:
        """Share of the peak that a step of so many seconds makes of it."""
        return self.needed / seconds / self.peak


def estimate(
    topology: Topology, by_dtype: Mapping[str, float], traffic: float, found: Sequence[Collective], needed: float
) -> Estimate:
    """
    Args:
        by_dtype: FLOPs of one device, by kind of `work.DTYPES`.
        traffic: bytes of its main memory.
        found: collectives, of devices numbered in the order of the mesh.
        needed: FLOPs of the model in a step, on all devices.
    """
    chip = topology.chip
    compute = sum(flops / chip.flops(dtype) for dtype, flops in by_dtype.items())
    both = _both_ways(found)
    near = sum(one.sent / speed(topology, chip, one, both) for one in found if not far(topology, one))
    network = sum(one.sent / network_speed(topology, chip, one) for one in found if far(topology, one))
    return Estimate(compute, traffic / chip.bandwidth, near, network, needed, chip.bfloat16 * topology.size)


def far(topology: Topology, one: Collective) -> bool:
    """Whether some of its groups go over the hosts' network."""
    places = one.groups // topology.near
    return bool(np.any(places != places[:, :1]))


def _both_ways(found: Sequence[Collective]) -> bool:
    """Whether what goes round a ring goes round in both directions, as TPU compilers have it."""
    rings = {tuple(map(tuple, one.groups)) for one in found if one.kind == "collective-permute"}
    sorted_rings = {tuple(sorted(ring)) for ring in rings}
    return any(tuple(sorted((b, a) for a, b in ring)) in sorted_rings for ring in rings)


def speed(topology: Topology, chip: chips.Chip, one: Collective, both: bool = False) -> float:
    """Bytes/s that leave a device in a ring among near devices.

    A group of N uses as many axes of the torus as it takes to hold N, and on an axis both directions; an axis that
    does not close to a ring has its ends carry twice as much. A permutation goes one way, if none goes the other.
    """
    if not chip.axes:
        return chip.links
    each = chip.links / chip.axes  # both directions of an axis
    if one.kind == "collective-permute":
        return each / (1 if both else 2)
    used, held = [], 1
    for length in sorted(topology.shape, reverse=True):
        if held >= one.members:
            break
        used.append(min(length, math.ceil(one.members / held)))
        held *= length
    whole = [length for length in used if length in topology.shape and length % chip.wraps == 0]
    closed = len(whole) == len(used)
    return each * max(len(used), 1) * (1.0 if closed else 0.5)


def network_speed(topology: Topology, chip: chips.Chip, one: Collective) -> float:
    """Bytes/s: each host's devices in a group share what they send over the network."""
    group = one.groups[0] // topology.near
    members = np.bincount(group).max()
    return min(chip.network * members, chip.links)
