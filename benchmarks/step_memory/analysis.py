"""What a compiler says about the memory of a step, for a device that need not be there."""

import time
from typing import NamedTuple

import jax

from lapa_jax import errors, sharding
from lapa_jax.planning import memory as planned
from lapa_jax.planning import topologies
from step_memory import cases, program

PLATFORMS = ("tpu", "cpu", "gpu")
TOPOLOGY = "v5p:2x2x1"
"""TPUs that are compiled for without having any; a device has 95 GiB."""


class Found(NamedTuple):
    """Of one case.

    Attributes:
        parameters: numbers in them.
        memory: of the device.
        seconds: that it took to compile.
    """

    parameters: int
    memory: planned.Memory
    seconds: float


def mesh_of(platform: str) -> jax.sharding.Mesh:
    """One device.

    Raises:
        UserError: there is none, and no compiler for it.
    """
    if platform == "tpu":
        return sharding.make_mesh(devices=topologies.compiler(topologies.parse(TOPOLOGY)).devices[:1])
    try:
        return sharding.make_mesh(devices=jax.devices(platform)[:1])
    except RuntimeError:
        raise errors.UserError(f"--platform={platform}: JAX sees no such device here; try --platform=tpu") from None


def analyse(case: cases.Case, size: str, mesh: jax.sharding.Mesh) -> Found:
    """Compiles the step of a case for the device of a mesh; nothing is run."""
    made = program.make(case, size, mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(made.state.params))
    begun = time.perf_counter()
    memory, _ = planned.compiled(made.step, made.state, made.batch, mesh)
    return Found(parameters, memory, time.perf_counter() - begun)
