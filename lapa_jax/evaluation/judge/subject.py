"""What a judged model must be able to do: encode pairs, decode frames, look codes up; numpy in and out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lapa_jax.evaluation import laq_quality

Arrays = Callable[..., np.ndarray]


@dataclasses.dataclass(frozen=True)
class Latent:
    """Latent actions of N pairs.

    Attributes:
        codes: int32[N, L]; None of a continuous quantiser.
        z: float32[N, L, D], before quantisation.
        codewords: float32[N, L, D], what the decoder reads.
    """

    codes: np.ndarray | None
    z: np.ndarray
    codewords: np.ndarray

    def rows(self, rows: Any) -> "Latent":
        """Those of some pairs; `rows` is whatever indexes an array."""
        return Latent(None if self.codes is None else self.codes[rows], self.z[rows], self.codewords[rows])


@dataclasses.dataclass(frozen=True)
class Subject:
    """A latent action model as the measures see it.

    Attributes:
        num_codes: K; None when the quantiser is continuous.
        code_length: L, codes a pair.
        code_dim: D.
        pixels: whether it decodes pixels in [0, 1]; otherwise feature maps of a frozen tower.
        encode: (frame, next_frame uint8[N, H, W, 3]) -> Latent.
        decode: (frame uint8[N, H, W, 3], codewords float32[N, L, D]) -> float32[N, h, w, C].
        lookup: codes int[N, L] -> codewords float32[N, L, D].
        view: frame uint8[N, H, W, 3] -> float32[N, h, w, C], the space in which it decodes.
    """

    num_codes: int | None
    code_length: int
    code_dim: int
    pixels: bool
    encode: Callable[[np.ndarray, np.ndarray], Latent]
    decode: Arrays
    lookup: Arrays
    view: Arrays

    @classmethod
    def of(cls, model: Any, state: Any) -> "Subject":
        """A `LatentActionQuantizer` with the weights of a training state."""
        variables = {"params": state.params, **state.variables}

        def method(name: str) -> Arrays:
            call = jax.jit(lambda v, *arrays: model.apply(v, *arrays, method=name))
            return lambda *arrays: _in_chunks(lambda *part: call(variables, *part), *arrays)

        latent = method("encode")

        def encode(frame: np.ndarray, next_frame: np.ndarray) -> Latent:
            found = latent(frame, next_frame)
            return Latent(found.codes, found.z, found.codewords)

        return cls(
            num_codes=model.num_codes if model.discrete else None,
            code_length=model.num_tokens,
            code_dim=len(model.quantizers["fsq"]["levels"]) if model.quantizer == "fsq" else model.code_dim,
            pixels=model.target == "pixels",
            encode=encode,
            decode=method("decode"),
            lookup=method("lookup"),
            view=method("view"),
        )


def _in_chunks(call: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """`call` on blocks of rows of one size, so that it compiles once; results as numpy, joined."""
    parts = []
    for *block, kept in laq_quality.chunks(*arrays):
        parts.append(jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf)[:kept], call(*block)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
