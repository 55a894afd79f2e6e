"""A plan: what a step takes on a topology, as its compiler and a roofline say."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from lapa_jax.planning import collectives, counts, hlo, memory, roofline, work
from lapa_jax.planning.memory import Memory
from lapa_jax.planning.roofline import Estimate
from lapa_jax.planning.topologies import Topology


@dataclasses.dataclass(frozen=True)
class Plan:
    """
    Attributes:
        memory: of a device.
        needed: of the whole step without remat.
        filled: share of a row's places that hold a token; None where rows have no places.
        flops: that a device runs.
        traffic: bytes of its main memory.
        sent: kind of collective -> bytes that leave it.
        estimate: None of CPUs, which the table of chips lacks, and where the compiler refused.
        seconds: that compiling took.
    """

    memory: Memory
    needed: work.Work
    filled: float | None
    flops: float
    traffic: float
    sent: Mapping[str, float]
    estimate: Estimate | None
    seconds: float

    def fits(self, topology: Topology, reserve: float) -> bool:
        """Whether a share `reserve` of a device's memory stays free."""
        if self.memory.refused and not topology.gpu:  # a GPU's likeness may have less memory than the GPU
            return False
        return topology.chip is None or self.memory.peak <= (1 - reserve) * topology.chip.memory


def make(
    step: Any, state: Any, batch: Any, mesh: jax.sharding.Mesh, topology: Topology, needed: work.Work,
    filled: float | None = None, keep: pathlib.Path | None = None,
) -> Plan:  # fmt: skip
    """
    Args:
        step: jitted (state, batch) -> (state, metrics).
        state, batch: ShapeDtypeStructs with their shardings on `mesh`.
        needed, filled: see `Plan`.
        keep: file for the text of the compiled program.
    """
    begun = time.perf_counter()
    found, compiled = memory.compiled(step, state, batch, mesh)
    took = time.perf_counter() - begun
    if compiled is None:
        return Plan(found, needed, filled, 0.0, 0.0, {}, None, took)
    text = compiled.as_text()
    if keep is not None:
        keep.write_text(text)
    module = hlo.parse(text)
    flops, traffic, sends = counts.flops(module), counts.traffic(module), collectives.of(module)
    estimate = None
    if topology.chip is not None:
        by_dtype = {kind: flops * share / needed.total for kind, share in needed.by_dtype.items()}
        estimate = roofline.estimate(topology, by_dtype, traffic, sends, needed.needed)
    return Plan(found, needed, filled, flops, traffic, collectives.sent_by_kind(sends), estimate, took)
