"""What devices send each other in a step: the collectives of a compiled program, by kind and volume."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.planning import hlo

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True, eq=False)
class Collective:
    """
    Attributes:
        kind: one of KINDS.
        bytes: of the whole: what each device of a group has after a gather, before a scatter, on both sides else.
        groups: int[G, N], numbers of the devices (in the mesh's order) that speak with each other; of a
            collective-permute int[N, 2], from and to.
        times: that it runs in a step.
        shape: of the result, as the compiler writes it.
        source: the operation of the traced program that it is of.
    """

    kind: str
    bytes: float
    groups: np.ndarray
    times: float
    shape: str
    source: str

    @property
    def members(self) -> int:
        return 2 if self.kind == "collective-permute" else self.groups.shape[1]

    @property
    def sent(self) -> float:
        """Bytes that leave a device in a step, if rings are used."""
        if self.kind == "collective-permute":
            return self.times * self.bytes
        share = (self.members - 1) / self.members
        return self.times * self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def of(program: str | hlo.Module) -> list[Collective]:
    """All collectives of a program, those that nobody hears (groups of one) left out.

    TPU compilers cut a collective into pieces that run beside others; pieces share a channel and count once.

    Raises:
        UserError: the text is not as expected.
    """
    module = hlo.parse(program) if isinstance(program, str) else program
    fused = _fused(module)
    found: dict[Any, Collective] = {}
    for name, instruction, times in module.running():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        channel = re.search(r"channel_id=(\d+)", instruction.text)
        key = (kind, channel[1]) if channel and name in fused else (name, instruction.name)
        if key in found:  # a piece may stand in a loop that runs beside: the outermost says how often
            times = min(times, found[key].times)
        found[key] = _collective(kind, instruction, times)
        if kind == "all-reduce" and name in fused and _is_cut(module.computations[name], instruction):
            found[key] = dataclasses.replace(found[key], kind="reduce-scatter")
    return [one for one in found.values() if one.members > 1]


def _fused(module: hlo.Module) -> set[str]:
    """Computations that are fusions, or parts of an asynchronous operation."""
    callers = [one for _, one, _ in module.running() if one.opcode in ("fusion", "async-start", "call")]
    return {name for one in callers for name in module.called_by(one)}


def _is_cut(computation: hlo.Computation, reduced: hlo.Instruction) -> bool:
    """Whether a device keeps its own part of a sum only, which is how TPU compilers write a reduce-scatter."""
    users = [one for one in computation.values() if reduced.name in one.operands]
    return bool(users) and all(one.opcode == "dynamic-slice" for one in users)


def _collective(kind: str, instruction: hlo.Instruction, times: float) -> Collective:
    shapes = instruction.shapes
    groups = _pairs(instruction) if kind == "collective-permute" else _groups(instruction.text)
    if instruction.opcode.endswith("-start") and kind != "all-reduce":  # a tuple: operand, result, and flags
        size = max((shape.bytes for shape in shapes), default=0.0)
    else:
        size = instruction.bytes
    if kind == "reduce-scatter":  # what each device puts in
        size *= groups.shape[1]
    source = re.search(r'op_name="([^"]*)"', instruction.text)
    shape = max(shapes, key=lambda one: one.bytes)
    text = f"{shape.dtype}[{','.join(map(str, shape.dims))}]"
    return Collective(kind, size, groups, times, text, source[1] if source else "")


def _pairs(instruction: hlo.Instruction) -> np.ndarray:
    text = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", instruction.text)
    if not text:
        raise errors.UserError(f"{instruction.name} does not say from where to where")
    return np.array(re.findall(r"\{(\d+),(\d+)\}", text[1]), int).reshape(-1, 2)


def _groups(text: str) -> np.ndarray:
    """int[G, N] of `replica_groups` in any of the compiler's four ways of writing them.

    Raises:
        UserError: it is written in another way.
    """
    if found := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text):
        rows = [[int(n) for n in row.split(",") if n] for row in re.findall(r"\{([\d,]*)\}", found[1])]
        return np.array(rows, int) if rows else np.zeros((1, 1), int)
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, dims, order = ([int(n) for n in part.split(",")] if part else None for part in found.groups())
        numbers = np.arange(math.prod(dims)).reshape(dims)
        return (numbers.transpose(order) if order else numbers).reshape(shape)
    mesh = r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(((?:[^()]|\([^()]*\))*)\))? ?\{([^}]*)\}"
    if found := re.search(mesh, text):
        groups = _mesh_groups(found[1], found[3])
        return _device_ids(found[2])[groups] if found[2] else groups
    if "replica_groups" in text:
        raise errors.UserError(f"replica groups are written in a way that is not known: {text[:200]}")
    return np.zeros((1, 1), int)


def _device_ids(text: str) -> np.ndarray:
    """int[N] of `0,2,1,3`, or of `[2,4]T(1,0)`: counted in that shape, its axes in another order."""
    found = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if not found:
        return np.array([int(n) for n in text.split(",")])
    shape, order = ([int(n) for n in part.split(",")] if part else None for part in found.groups())
    return np.arange(math.prod(shape)).reshape(shape).transpose(order).ravel()


def _mesh_groups(mesh: str, axes: str) -> np.ndarray:
    """Of `'a'=2,'b'=8` and `'b'`, or a part of an axis: `'b':(2)4`, 4 of it below the first 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    chosen = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes)
    dims: list[int] = []
    places: dict[tuple[str, str], int] = {}
    for name, size in sizes.items():
        parts = sorted((int(before), int(part)) for n, before, part in chosen if n == name and part)
        if not parts:
            places[name, ""] = len(dims)
            dims.append(size)
            continue
        done = 1
        for before, part in parts:
            dims += [before // done]
            places[name, str(before)] = len(dims)
            dims += [part]
            done = before * part
        dims.append(size // done)
    own = [places[name, before] for name, before, _ in chosen]
    others = [axis for axis in range(len(dims)) if axis not in own]
    numbers = np.arange(math.prod(dims)).reshape(dims).transpose([*others, *own])
    return numbers.reshape(-1, math.prod(dims[axis] for axis in own))


def sent_by_kind(found: Sequence[Collective]) -> dict[str, float]:
    """Kind -> bytes that leave a device in a step."""
    totals = dict.fromkeys(KINDS, 0.0)
    for one in found:
        totals[one.kind] += one.sent
    return {kind: total for kind, total in totals.items() if total}
