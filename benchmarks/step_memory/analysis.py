"""What a compiler says about the memory of a step, for a device that need not be there."""

import dataclasses
import time

import jax

from lapa_jax import errors, sharding
from lapa_jax.planning import memory as planned
from lapa_jax.planning import topologies
from step_memory import cases, program

PLATFORMS = ("tpu", "cpu", "gpu")
TOPOLOGY = "v5p:2x2x1"
"""TPUs that are compiled for without having any; a device has 95 GiB."""


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
        return sharding.make_mesh(devices=topologies.compiler(topologies.parse(TOPOLOGY)).devices[:1])
    try:
        return sharding.make_mesh(devices=jax.devices(platform)[:1])
    except RuntimeError:
        raise errors.UserError(f"--platform={platform}: JAX sees no such device here; try --platform=tpu") from None


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
        rest = planned.wanted(str(error)) - state
        return Memory(parameters, state, state, rest, 0, 0, time.perf_counter() - begun, refused=True)
    return Memory(
        parameters, state, found.argument_size_in_bytes, found.temp_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes, found.generated_code_size_in_bytes,
        time.perf_counter() - begun,
    )  # fmt: skip
