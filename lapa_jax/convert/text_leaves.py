"""Parameters of the trunk as they lie in tensors of Hugging Face: read by slices of ours, a block at a time.

Theirs are [out, in], each layer by itself; ours are [in, out], layers first. Their rotary positions turn halves of
a head, (x[i], x[i + dim / 2]), ours pairs, (x[2i], x[2i + 1]). So what makes queries and keys is reordered within
each head; products of both, all that attention sees of them, stay the same.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.convert import placing
from lapa_jax.convert.hugging_face import Stored

TURNED = tuple(
    f"/attention/{name}"
    for name in ("wq/kernel", "wk/kernel", "wq/bias", "wk/bias", "q_norm/scale", "k_norm/scale")
)
"""How paths end whose features turn."""

_BLOCK = 1 << 24
"""Bytes, as float32, that are read at a time."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter.

    Attributes:
        path: ours.
        keys: names of its tensors, by layer.
        stored: these tensors.
        stacked: whether layers are a leading axis.
        head_dim: see `interleaved`.
        offset: added to each value.
    """

    path: str
    keys: Sequence[str]
    stored: Sequence[Stored]
    stacked: bool
    head_dim: int
    offset: int = 0

    def read(self, index: Sequence[slice], shape: Sequence[int], dtype: Any) -> np.ndarray:
        """The part of the whole, of that shape, that `index` cuts out.

        Raises:
            UserError: it holds values that are not finite.
        """
        spans = [piece.indices(size)[:2] for piece, size in zip(index, shape, strict=True)]
        out = np.empty([stop - start for start, stop in spans], dtype)
        layers, inner = (spans[0], spans[1:]) if self.stacked else ((0, 1), spans)
        for layer, part in zip(range(*layers), out if self.stacked else [out], strict=True):
            self._fill(layer, part, inner)
            if not placing.finite(part):
                raise errors.UserError(f"{self.keys[layer]} holds values that are not finite: download it again")
        return out

    def _fill(self, layer: int, out: np.ndarray, spans: Sequence[tuple[int, int]]) -> None:
        """Rows of theirs are columns of a kernel of ours; rows of one head are read together where they turn."""
        if self.path.endswith("/kernel"):
            out, spans = out.T, spans[::-1]
        tensor = self.stored[layer].file.get_slice(self.keys[layer])
        (first, last), rest = spans[0], tuple(slice(*span) for span in spans[1:])
        unit = self.head_dim if self.turned else 1
        row = math.prod(out.shape[1:]) * 4
        step = max(1, _BLOCK // max(1, row * unit)) * unit
        for start in range(first // unit * unit, last, step):
            stop = min(start + step, -(-last // unit) * unit)
            values = tensor[(slice(start, stop), *rest)]
            values = interleaved(values, unit) if self.turned else values
            low, high = max(start, first), min(stop, last)
            out[low - first : high - first] = values[low - start : high - start].astype(np.float32) + self.offset

    @property
    def turned(self) -> bool:
        """Whether its rows are features of queries or keys."""
        return self.path.endswith(TURNED)


def interleaved(values: np.ndarray, head_dim: int) -> np.ndarray:
    """[heads * head_dim, ...]: in each head, rows i and i + head_dim / 2 become rows 2i and 2i + 1."""
    halves = values.reshape(-1, 2, head_dim // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)
