"""What every quantiser returns."""

import flax.struct
import jax


@flax.struct.dataclass
class Quantized:
    """A latent action after the bottleneck.

    Attributes:
        codewords: float32[B, N, D], what the decoder reads.
        codes: int32[B, N]; None of a continuous bottleneck.
        loss: float32[], the quantiser's own term of the training loss, in units of squared z; 0 without one.
        log: scalars worth watching.
    """

    codewords: jax.Array
    codes: jax.Array | None
    loss: jax.Array | float = 0.0
    log: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
