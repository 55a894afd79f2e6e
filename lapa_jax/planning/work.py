"""Floating-point operations and memory traffic of a traced function, counted in its jaxpr: no compiler, no device.

Counted are matrix products and convolutions, of which all else is a small part in the models here. A product in the
body of a scan counts as often as the body runs. What remat computes again is in the jaxpr of a gradient, and so is
counted: of what a model needs (MFU) ask with a model without it.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend import core

from lapa_jax import errors
from lapa_jax.models import attention_plain

DTYPES = ("bfloat16", "float32", "highest")
"""Kinds of products: by dtype, and float32 at full precision apart."""


@dataclasses.dataclass(frozen=True)
class Work:
    """
    Attributes:
        by_dtype: kind of DTYPES -> FLOPs.
        pairs: of these, FLOPs of queries with keys and weights with values under a causal mask.
        again: of these, FLOPs that the backward pass of attention computes a second time.
        traffic: bytes that all products read and write, each from memory and to it: more than a compiler that
            fuses needs, and less what is between products.
    """

    by_dtype: Mapping[str, float]
    pairs: float
    again: float
    traffic: float

    @property
    def total(self) -> float:
        """FLOPs that are run."""
        return sum(self.by_dtype.values())

    @property
    def needed(self) -> float:
        """FLOPs without those that attention computes a second time; what MFU is of."""
        return self.total - self.again

    @property
    def causal(self) -> float:
        """`needed`, with half of the pairs: those that a causal mask lets through."""
        return self.needed - (self.pairs - self.again) / 2


def of(function: Callable, *args: Any, **kwargs: Any) -> Work:
    """What a call with these arguments, arrays or ShapeDtypeStructs, takes on all devices together.

    Raises:
        UserError: a loop of unknown length, or products inside a kernel, cannot be counted.
    """
    count = _Count()
    count.visit(jax.make_jaxpr(function)(*args, **kwargs).jaxpr, 1, "")
    pairs, again = (count.scoped[name] for name in (attention_plain.PAIRS, attention_plain.AGAIN))
    return Work(dict(count.flops), pairs, again, count.bytes)


class _Count:
    """Sums over a jaxpr and those inside it."""

    def __init__(self) -> None:
        self.flops: dict[str, float] = collections.defaultdict(float)
        self.scoped: dict[str, float] = collections.defaultdict(float)
        self.bytes = 0.0

    def visit(self, jaxpr: Any, times: int, outer: str) -> None:
        for equation in jaxpr.eqns:
            scope = f"{outer}/{equation.source_info.name_stack}"
            name = equation.primitive.name
            if name in PRODUCTS:
                self._add(PRODUCTS[name](equation), _kind(equation), times, scope)
                self.bytes += times * sum(_bytes(one) for one in (*equation.invars, *equation.outvars))
                continue
            inner = list(core.jaxprs_in_params(equation.params))
            if name == "while" and any(_has_products(one) for one in inner):
                raise errors.UserError("a while loop of unknown length has products in it: they cannot be counted")
            if name == "pallas_call" or "custom_call" in name or "cudnn" in name:
                raise errors.UserError(f"products inside {name} cannot be counted: count with attention='xla'")
            if name == "cond":  # branches compute the same in different ways: the dearest counts
                self._dearest(inner, times, scope)
                continue
            for one in inner:
                self.visit(one, times * _repeats(equation), scope)

    def _dearest(self, branches: list[Any], times: int, scope: str) -> None:
        counts = []
        for branch in branches:
            counts.append(_Count())
            counts[-1].visit(branch, times, scope)
        best = max(counts, key=lambda one: sum(one.flops.values()))
        for mine, theirs in ((self.flops, best.flops), (self.scoped, best.scoped)):
            for key, value in theirs.items():
                mine[key] += value
        self.bytes += best.bytes

    def _add(self, flops: float, kind: str, times: int, scope: str) -> None:
        self.flops[kind] += times * flops
        for name in (attention_plain.PAIRS, attention_plain.AGAIN):
            if name in scope:
                self.scoped[name] += times * flops


def _repeats(equation: Any) -> int:
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "shard_map":  # its body is one device's part
        return math.prod(dict(equation.params["mesh"].shape).values())
    return 1


def _has_products(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name in PRODUCTS or any(map(_has_products, core.jaxprs_in_params(equation.params)))
        for equation in jaxpr.eqns
    )


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lengths = (equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2.0 * equation.outvars[0].aval.size * math.prod(lengths)


def _convolution(equation: Any) -> float:
    """A kernel's element meets an output once, and padding or holes that dilation makes are counted as if read.

    Of a gradient with holes only the part without them is.
    """
    kernel = equation.invars[1].aval
    features = equation.params["dimension_numbers"].rhs_spec[0]
    taps = kernel.size / kernel.shape[features]
    holes = math.prod(equation.params["lhs_dilation"])
    return 2.0 * equation.outvars[0].aval.size * taps / equation.params["batch_group_count"] / holes


PRODUCTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
"""Primitive -> FLOPs of an equation."""


def _kind(equation: Any) -> str:
    dtypes = {one.aval.dtype.name for one in equation.invars}
    if "float32" not in dtypes and "float64" not in dtypes:
        return "bfloat16"
    precision = equation.params["precision"]
    both = precision if isinstance(precision, tuple) else (precision,)
    return "highest" if jax.lax.Precision.HIGHEST in both else "float32"


def _bytes(one: Any) -> int:
    return one.aval.size * one.aval.dtype.itemsize
