"""Bytes of one device in a step, by what they are for."""

import dataclasses
import math
import re
from typing import Any

import jax

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """
    Attributes:
        params, opt_state, ema, variables, batch: of these arguments.
        layout: what the compiler adds to them: padding to tiles.
        temporaries: all that is made and dropped within a step: activations, gradients, gathered weights.
        outputs: of what does not take the place of an argument.
        program: of the compiled code.
        refused: the compiler says that its device has less than `peak`, which is then all that it says.
    """

    params: float
    opt_state: float
    ema: float
    variables: float
    batch: float
    layout: float = 0.0
    temporaries: float = 0.0
    outputs: float = 0.0
    program: float = 0.0
    refused: bool = False

    @property
    def state(self) -> float:
        """Of the train state, without padding."""
        return self.params + self.opt_state + self.ema + self.variables

    @property
    def arguments(self) -> float:
        """Of state and batch, as the compiler lays them out."""
        return self.state + self.batch + self.layout

    @property
    def peak(self) -> float:
        """All of it at once."""
        return self.arguments + self.temporaries + self.outputs + self.program


def bytes_a_device(tree: Any) -> float:
    """Of ShapeDtypeStructs with their shardings, on a device that has its share of each."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


def compiled(step: Any, state: Any, batch: Any, mesh: jax.sharding.Mesh) -> tuple[Memory, Any]:
    """Compiles a step for the devices of a mesh, which need not be there; nothing is run.

    Args:
        step: jitted (state, batch) -> anything.
        state, batch: ShapeDtypeStructs with their shardings on `mesh`.

    Returns:
        The memory of a device, and the program; None where the compiler refuses it for lack of memory.
    """
    arguments = of_arguments(state, batch)
    try:
        with jax.set_mesh(mesh):
            program = step.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        return of_refusal(arguments, error), None
    return of_program(arguments, program.memory_analysis()), program


def of_arguments(state: Any, batch: Any) -> Memory:
    """What is known before anything is compiled."""
    parts = (state.params, state.opt_state, state.ema, state.variables, batch)
    return Memory(*map(bytes_a_device, parts))


def of_program(arguments: Memory, found: Any) -> Memory:
    """With what `compiled.memory_analysis()` says."""
    return dataclasses.replace(
        arguments,
        layout=found.argument_size_in_bytes - arguments.state - arguments.batch,
        temporaries=found.temp_size_in_bytes,
        outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
        program=found.generated_code_size_in_bytes,
    )


def of_refusal(arguments: Memory, error: Exception) -> Memory:
    """With what a compiler says that a program would take; raises what is no lack of memory."""
    rest = wanted(str(error)) - arguments.state - arguments.batch
    return dataclasses.replace(arguments, temporaries=rest, refused=True)


def wanted(message: str) -> int:
    """Bytes, arguments included, that a compiler says a program takes; raises what is no lack of memory."""
    found = re.search(r"RESOURCE_EXHAUSTED.*?([\d.]+)([KMGT]?)i?B?\)? (?:exceeds|of )", message, re.DOTALL)
    if not found:
        raise RuntimeError(message)
    return int(float(found[1]) * _UNITS[found[2]])
