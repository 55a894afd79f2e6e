"""Implementations of attention by name; all give the same numbers, up to rounding, wherever there is no padding."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lapa_jax.models import attention_cudnn, attention_plain, attention_ring, attention_splash
from lapa_jax.models.sight import Causal


class Implementation(NamedTuple):
    """
    Attributes:
        prepare: who sees whom -> what all layers need of it, arrays.
        attend: (q float[B, T, N, D], k and v float[B, T, K, D], prepared, scale) -> float[B, T, N, D]; each of the
            K heads is for N / K queries. Scale None: D ** -0.5.
    """

    prepare: Callable[[Causal], Any]
    attend: Callable[[jax.Array, jax.Array, jax.Array, Any, float | None], jax.Array]


DEFAULT, RING = "xla", "ring"

IMPLEMENTATIONS = {
    "xla": Implementation(lambda seen: seen.mask, attention_plain.attend),
    "cudnn": Implementation(attention_cudnn.prepare, attention_cudnn.attend),
    "splash": Implementation(lambda seen: seen.segments, attention_splash.attend),
    "ring": Implementation(lambda seen: seen.segments, attention_ring.attend),
}
"""For every device and dtype; for NVIDIA GPUs; for TPUs; for rows whose tokens are split over the mesh axis
`sequence`. What is cached is always looked at through "xla"."""
