"""Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): what a model needs, over what its devices can do.

Counted is a training step as it would be without remat: what is computed twice is needed once. Queries and keys are
counted as a causal mask lets them meet, half of them. Everything of the step is in: frozen networks that label or
encode on the way, too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from lapa_jax.data import sequences
from lapa_jax.planning import work

PLACED = tuple(sequences.blank(1))
"""Keys of a batch with an axis of places, [B, T]."""


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a step needs of all devices together.

    Attributes:
        whole: FLOPs with all places of the batch.
        fixed: of these, what does not hang on the number of places (heads at their targets, images).
        token: FLOPs of one place, without whom it looks at.
        pair: FLOPs of a segment for its length squared.
        peak: FLOP/s that all devices together can do, each product at the peak of its dtype.
    """

    whole: float
    fixed: float
    token: float
    pair: float
    peak: float

    def shares(self, steps: int, counts: Any, seconds: float) -> dict[str, float]:
        """`mfu`, by the tokens and segments that there were; `mfu_padded`, as if all places were tokens of one.

        Args:
            counts: `speed.Counts` of these steps; without places the two are the same, and only `mfu` is there.
        """
        possible = self.peak * seconds
        if not counts.places:
            return {"mfu": steps * self.whole / possible}
        real = steps * self.fixed + self.token * counts.tokens + self.pair * counts.squares
        return {"mfu": real / possible, "mfu_padded": steps * self.whole / possible}


def needs(step: Callable, state: Any, batch: Mapping[str, Any], peak: Callable[[str], float]) -> Needs:
    """Counted by tracing; nothing is computed.

    Args:
        step: (state, batch) -> anything, without remat and with attention "xla".
        peak: kind of product, one of `work.DTYPES` -> FLOP/s of all devices together.

    Raises:
        UserError: something cannot be counted.
    """
    state, batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, dict(batch)))
    once = work.of(step, state, batch)
    most = once.total / sum(flops / peak(kind) for kind, flops in once.by_dtype.items())
    if "segments" not in batch:
        return Needs(once.causal, once.causal, 0.0, 0.0, most)
    rows, places = batch["segments"].shape
    longer = {name: _doubled(x) if name in PLACED else x for name, x in batch.items()}
    twice = work.of(step, state, longer)
    per_token = (_alone(twice) - _alone(once)) / (rows * places)  # all but pairs is a line over the places
    pair = (once.causal - _alone(once)) / (rows * places**2)
    return Needs(once.causal, _alone(once) - per_token * rows * places, per_token, pair, most)


def _alone(found: work.Work) -> float:
    """FLOPs that are no tokens looking at each other."""
    return found.total - found.pairs


def _doubled(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    rows, places, *rest = x.shape
    return jax.ShapeDtypeStruct((rows, 2 * places, *rest), x.dtype)
