"""What one device computes and moves in a step: products and memory traffic of a compiled program."""

import math
import re

from lapa_jax import errors
from lapa_jax.planning import hlo

SILENT = (
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "all-gather-done", "all-reduce-done", "collective-permute-done",
    "copy-done", "async-done", "async-update", "opt-barrier", "custom-call",
)  # fmt: skip
"""Opcodes that read and write nothing themselves, or whose other half is counted."""


def flops(module: hlo.Module) -> float:
    """Of all matrix products and convolutions, 2 for each multiplication and addition.

    Raises:
        UserError: one is written in a way that is not known.
    """
    total = 0.0
    for name, instruction, times in module.running():
        if instruction.opcode == "dot":
            total += times * _dot(module, name, instruction)
        elif instruction.opcode == "convolution":
            total += times * _convolution(module, name, instruction)
    return total


def _dot(module: hlo.Module, name: str, dot: hlo.Instruction) -> float:
    left = module.shape_of(name, dot.operands[0])[0].dims
    axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.text)
    contracted = [left[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
    return 2.0 * math.prod(dot.shapes[0].dims) * math.prod(contracted)


def _convolution(module: hlo.Module, name: str, conv: hlo.Instruction) -> float:
    """Taps that meet padding or a hole of a dilated input are no work: TPU compilers write products that way."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", conv.text)
    if not labels:
        raise errors.UserError(f"convolution {conv.name} has no dim_labels")
    left, right = (module.shape_of(name, operand)[0].dims for operand in conv.operands[:2])
    out = conv.shapes[0].dims
    batches = int((re.search(r"batch_group_count=(\d+)", conv.text) or (0, 1))[1])
    total = 2.0 * out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")] / batches
    for axis, window in enumerate(_windows(conv.text, sum(c.isdigit() for c in labels[1]))):
        place = str(axis)
        sizes = left[labels[1].index(place)], right[labels[2].index(place)], out[labels[3].index(place)]
        total *= _meeting(*sizes, **window)
    return total


def _windows(text: str, axes: int) -> list[dict[str, int]]:
    """Of each spatial axis: stride, padding before it, dilation of input and kernel."""
    found = re.search(r"window=\{([^}]*)\}", text)
    given = dict(part.split("=") for part in found[1].split()) if found else {}

    def values(key: str, default: int) -> list[int]:
        return [int(part.split("_")[0]) for part in given[key].split("x")] if key in given else [default] * axes

    keys = {"stride": ("stride", 1), "pad": ("pad", 0), "holes": ("lhs_dilate", 1), "spread": ("rhs_dilate", 1)}
    columns = {name: values(*key) for name, key in keys.items()}
    return [{name: column[axis] for name, column in columns.items()} for axis in range(axes)]


def _meeting(left: int, right: int, out: int, stride: int, pad: int, holes: int, spread: int) -> int:
    """Pairs of a place of the output and one of the kernel that meet a number of the input."""
    last = (left - 1) * holes
    count = 0
    for tap in range(right):
        first = tap * spread - pad
        if holes == 1:  # places p with 0 <= p * stride + first <= last
            lowest, highest = max(0, math.ceil(-first / stride)), min(out - 1, (last - first) // stride)
            count += max(0, highest - lowest + 1)
        else:
            reached = (place * stride + first for place in range(out))
            count += sum(0 <= one <= last and one % holes == 0 for one in reached)
    return count


def traffic(module: hlo.Module) -> float:
    """Bytes that a device's main memory gives and takes: operands and results of all that is not fused into others.

    Of an array that is only cut the slice counts, of one that is written to in place what is written. What the
    compiler keeps in faster memory does not count.
    """
    inside = {
        called
        for _, instruction, _ in module.running()
        if instruction.opcode == "fusion"
        for called in module.called_by(instruction)
    }
    total = 0.0
    for name, instruction, times in module.running():
        if name not in inside and instruction.opcode not in SILENT:
            total += times * _moved(module, name, instruction)
    return total


def _moved(module: hlo.Module, name: str, instruction: hlo.Instruction) -> float:
    computation = module.computations[name]
    operands = [computation[operand] for operand in instruction.operands]
    if instruction.opcode == "fusion":
        return _fusion(module.computations[module.called_by(instruction)[0]], instruction, operands)
    if instruction.opcode == "dynamic-slice":
        return 2 * _slow(instruction.shapes)
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _slow(operands[1].shapes)
    return _slow(instruction.shapes) + sum(_slow(operand.shapes) for operand in operands)


def _fusion(inner: hlo.Computation, fusion: hlo.Instruction, operands: list[hlo.Instruction]) -> float:
    parameters = {}
    for one in inner.values():
        if one.opcode == "parameter":
            parameters[int(re.match(r"\((\d+)\)", one.text)[1])] = one.name
    read = sum(_read(inner, parameters[i], operand.shapes) for i, operand in enumerate(operands))
    updates = [one for one in inner.values() if one.opcode == "dynamic-update-slice"]
    written = _slow(fusion.shapes)
    for update in updates:  # the rest of the array stays where it is
        whole = sum(shape.bytes for shape in update.shapes)
        if any(shape.bytes == whole and not shape.fast for shape in fusion.shapes):
            written -= whole - inner[update.operands[1]].bytes
    return read + max(written, 0.0)


def _read(inner: hlo.Computation, parameter: str, shapes: tuple[hlo.Shape, ...]) -> float:
    whole = _slow(shapes)
    users = [one for one in inner.values() if parameter in one.operands]
    cut = 0.0
    for user in users:
        if user.opcode == "dynamic-slice":
            cut += user.bytes
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != parameter:
            return whole
    return min(whole, cut)


def _slow(shapes: tuple[hlo.Shape, ...]) -> float:
    return sum(shape.bytes for shape in shapes if not shape.fast)
