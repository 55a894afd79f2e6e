"""Quantisers of the latent action, one a file; `QUANTIZERS` names them for configs.

All share one signature: `(z float[B, N, D], train) -> base.Quantized`, and `lookup(codes) -> codewords`.
"""

from lapa_jax.models.quantizers.base import Quantized
from lapa_jax.models.quantizers.fsq import FSQ
from lapa_jax.models.quantizers.kl import KL
from lapa_jax.models.quantizers.nsvq import NSVQ, OfficialNSVQ
from lapa_jax.models.quantizers.vq import EMAVQ, VQ

QUANTIZERS = {"fsq": FSQ, "nsvq": NSVQ, "nsvq_official": OfficialNSVQ, "vq": VQ, "vq_ema": EMAVQ, "kl": KL}

__all__ = ["EMAVQ", "FSQ", "KL", "NSVQ", "OfficialNSVQ", "QUANTIZERS", "Quantized", "VQ"]
