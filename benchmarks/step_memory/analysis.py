"""What a compiler says about the memory of a step, for a device that need not be there."""

import dataclasses
import os
import re
import time
from typing import Any

import jax

from lapa_jax import errors, sharding
from step_memory import cases, program

PLATFORMS = ("tpu", "cpu", "gpu")
TOPOLOGY = "v5p:2x2x1"
"""TPUs that are compiled for without having any; a device has 95 GiB."""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on the device, and numbers, of one case.

    Attributes:
        parameters: numbers in them.
        state: of the train state.
        arguments: of state and batch, as the compiler lays them out.
        temporaries: of all that is made and dropped within a step.
        outputs: of what does not take the place of an argument.
        program: of the compiled code.
        seconds: that it took to compile.
        refused: the compiler says that its device has less than `peak`, which is then all that it says.
    """

    parameters: int
    state: int
    arguments: int
    temporaries: int
    outputs: int
    program: int
    seconds: float
    refused: bool = False

    @property
    def peak(self) -> int:
        """All of it at once: what is set aside, gaps between temporaries included."""
        return self.arguments + self.temporaries + self.outputs + self.program


def mesh_of(platform: str) -> jax.sharding.Mesh:
    """One device.

    Raises:
        UserError: there is none, and no compiler for it.
    """
    if platform == "tpu":
        return sharding.make_mesh(devices=[_described(TOPOLOGY)])
    try:
        return sharding.make_mesh(devices=jax.devices(platform)[:1])
    except RuntimeError:
        raise errors.UserError(f"--platform={platform}: JAX sees no such device here; try --platform=tpu") from None


def _described(topology: str) -> Any:
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu is not to look for the machine it is in
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor to lock what is not there
    jax.config.update("jax_platforms", "cpu")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    except Exception as error:  # of several kinds, by what is missing
        reason = " ".join(str(error).split())[:120]
        raise errors.UserError(f"no compiler for TPUs ({reason}): pip install libtpu") from error


def analyse(case: cases.Case, size: str, mesh: jax.sharding.Mesh) -> Memory:
    """Compiles the step of a case for the device of a mesh; nothing is run."""
    made = program.make(case, size, mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(made.state.params))
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(made.state))
    begun = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            found = made.step.lower(made.state, made.batch).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        rest = wanted(str(error)) - state
        return Memory(parameters, state, state, rest, 0, 0, time.perf_counter() - begun, refused=True)
    return Memory(
        parameters, state, found.argument_size_in_bytes, found.temp_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes, found.generated_code_size_in_bytes,
        time.perf_counter() - begun,
    )  # fmt: skip


def wanted(message: str) -> int:
    """Bytes, arguments included, that a compiler says a program takes; raises what is no lack of memory."""
    found = re.search(r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT]?)i?B?\)? (?:exceeds|of )", message, re.DOTALL)
    if not found:
        raise RuntimeError(message)
    return int(float(found[1]) * _UNITS[found[2]])
