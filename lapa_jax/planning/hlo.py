"""Compiled programs as XLA prints them (`compiled.as_text()`), read into instructions with how often each runs.

XLA's own cost analysis counts the body of a loop once; here it counts as often as the loop's condition says.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from lapa_jax import errors

BITS = {"pred": 8, "token": 0, "opaque": 0}
"""Of an element, for types whose name does not say it."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_CALLS = re.compile(r"(?:calls|to_apply|body|called_computations|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """
    Attributes:
        dtype: as XLA writes it.
        dims: lengths.
        fast: kept in a memory that is not the device's main one.
    """

    dtype: str
    dims: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        bits = BITS.get(self.dtype)
        if bits is None:
            bits = int(re.search(r"\d+", self.dtype)[0])  # bf16, s32, f8e4m3fn
        return math.prod(self.dims) * bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """
    Attributes:
        name, opcode: of the instruction.
        shapes: of its result, all parts of a tuple.
        operands: names of instructions in the same computation.
        text: what follows the opcode, attributes included.
        root: its result is that of the computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str
    root: bool

    @property
    def bytes(self) -> float:
        """Of the result."""
        return sum(shape.bytes for shape in self.shapes)


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """
    Attributes:
        computations: name -> instructions by name, in order.
        entry: name of that which is called.
    """

    computations: dict[str, Computation]
    entry: str

    @functools.cached_property
    def times(self) -> dict[str, float]:
        """Computation -> how often it runs in a call of the program; what a reduction applies is left out."""
        found: dict[str, float] = dict.fromkeys(self.computations, 0.0)

        def visit(name: str, times: float) -> None:
            found[name] += times
            for instruction in self.computations[name].values():
                for called, count in self._called(instruction):
                    visit(called, times * count)

        visit(self.entry, 1.0)
        return found

    def running(self) -> Iterator[tuple[str, Instruction, float]]:
        """(computation, instruction, how often) of all that run."""
        for name, times in self.times.items():
            if times:
                for instruction in self.computations[name].values():
                    yield name, instruction, times

    def shape_of(self, computation: str, operand: str) -> tuple[Shape, ...]:
        return self.computations[computation][operand].shapes

    def called_by(self, instruction: Instruction) -> list[str]:
        """Computations that it calls, a loop's condition and what reductions apply left out."""
        if instruction.opcode in _APPLY:
            return []
        texts = _CALLS.findall(instruction.text)
        names = (name for text in texts for name in re.findall(r"[\w.\-]+", text))
        return [name for name in names if name in self.computations]

    def _called(self, instruction: Instruction) -> Iterator[tuple[str, float]]:
        names = self.called_by(instruction)
        count = self._length(instruction) if instruction.opcode == "while" and names else 1
        for name in names:
            yield name, count

    def _length(self, loop: Instruction) -> float:
        """Iterations of a `while`: what the compiler noted, or as its condition and its counter say.

        Raises:
            UserError: these cannot be read.
        """
        noted = re.search(r'known_trip_count"?:\{"?n"?:"?(\d+)', loop.text)
        if noted:
            return int(noted[1])
        condition, body = (
            self.computations[re.search(rf"\b{name}=%?([\w.\-]+)", loop.text)[1]] for name in ("condition", "body")
        )
        limit, place = self._limit(condition)
        if limit is None or place is None:
            raise errors.UserError(f"the compiled program has a loop of unknown length, {loop.name}")
        return math.ceil(limit / self._stride(body, place))

    def _limit(self, condition: Computation) -> tuple[int | None, int | None]:
        """What the counter, which begins at 0, is compared with, and where it is among what the loop carries."""
        root = _root(condition)
        parts = [_plain(condition, name) for name in root.operands]
        values = [value for value in map(_integer, parts) if value is not None]
        places = [int(found[1]) for one in parts if (found := re.search(r"\bindex=(\d+)", one.text))]
        inner = _root(self.computations[self.called_by(root)[0]]) if root.opcode == "fusion" else root
        if inner.opcode != "compare" or len(values) != 1 or len(places) != 1:
            return None, None
        return values[0] + ("direction=LE" in inner.text), places[0]

    def _stride(self, body: Computation, place: int) -> int:
        """By how much the counter rises in an iteration: by more than 1 in a loop that the compiler unrolled."""
        update = _plain(body, _root(body).operands[place])
        steps = [_integer(_plain(body, name)) for name in update.operands]
        known = [step for step in steps if step]
        return known[0] if len(known) == 1 else 1


_APPLY = ("reduce", "all-reduce", "all-reduce-start", "reduce-scatter", "scatter", "sort", "reduce-window", "map",
          "select-and-scatter")  # fmt: skip


def _root(computation: Computation) -> Instruction:
    return next(one for one in computation.values() if one.root)


def _plain(computation: Computation, name: str) -> Instruction:
    """What a copy is of."""
    instruction = computation[name]
    while instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation[instruction.operands[0]]
    return instruction


def _integer(instruction: Instruction) -> int | None:
    found = re.match(r"\((-?\d+)\)", instruction.text) if instruction.opcode == "constant" else None
    return found and int(found[1])


def parse(text: str) -> Module:
    """
    Raises:
        UserError: this is no compiled program.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            current[instruction.name] = instruction
        elif line.startswith("}"):
            current = None
    if entry is None:
        raise errors.UserError("no program found in the compiler's text")
    return Module(computations, entry)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ") - 1
    opened = rest.index("(", end + 1)
    closed = _closing(rest, opened)
    operands = tuple(_NAME.findall(rest[opened:closed]))
    opcode = rest[end + 1 : opened].strip()
    return Instruction(name, opcode, shapes(rest[: end + 1]), operands, rest[opened:], root)


def _closing(text: str, opened: int) -> int:
    """Where the parenthesis at `opened` closes."""
    depth = 0
    for place in range(opened, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise errors.UserError(f"a parenthesis does not close in the compiler's text: {text[opened : opened + 60]}")


def shapes(text: str) -> tuple[Shape, ...]:
    """All shapes in a text such as `(bf16[4,8]{1,0:S(1)}, u32[])`."""
    found = _SHAPE.findall(text)
    return tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(",") if n), bool(re.search(r"S\([1-9]\)", layout)))
        for dtype, dims, layout in found
    )
