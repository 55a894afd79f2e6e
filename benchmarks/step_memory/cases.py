"""Which runs of stage 2 are looked at: each is changes to a config, as on the command line of `pretrain_vlm`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

GB = 10**9
CARDS = (24, 80)
"""GB of the cards that are asked about, of 10^9 bytes; what is sold as 24 and 80 GB has some 7% more."""
RESERVE = 0.05
"""Share of a card that is left to the driver, to libraries and to gaps between buffers."""


@dataclasses.dataclass(frozen=True)
class Case:
    """
    Attributes:
        size: of `experiments/configs/pretrain_vlm.py`.
        changes: dotted key -> value, over that size.
        card: GB of the card that it is promised to fit; None: nothing is promised.
    """

    size: str
    changes: Mapping[str, Any]
    card: int | None = None


def fits(peak: int, card: int) -> bool:
    """Whether so many bytes leave the reserve of a card of so many GB."""
    return peak <= (1 - RESERVE) * card * GB


LOW_BIT = {"param_dtype": "bfloat16", "optimizer.moments": "float8"}
LORA = {"model.lora.rank": 16, "frozen_dtype": "bfloat16", "optimizer.trainable": "lora_|latent"}
PACKED = {"data.packed": True, "data.row_length": 2048, "data.text_length": 128}

CASES: Mapping[str, Case] = {
    "full, float32 Adam, 1 row": Case("official", {"batch_size": 1}),
    "full, float8 moments, 8 rows": Case("official", {"batch_size": 8, **LOW_BIT}, 80),
    "full, float8 moments, 256 rows in 32 parts": Case(
        "official", {"batch_size": 256, "accumulate": 32, **LOW_BIT}
    ),
    "full, float8 moments, 4 packed rows": Case("base", {"batch_size": 4, **LOW_BIT, **PACKED}),
    "full, bfloat16 moments, 8 rows": Case(
        "official", {"batch_size": 8, "param_dtype": "bfloat16", "optimizer.moments": "bfloat16"}
    ),
    "LoRA, 8 rows": Case("official", {"batch_size": 8, **LORA}, 24),
    "LoRA, 1 packed row": Case("base", {"batch_size": 1, **LORA, **PACKED}),
    "LoRA, 256 rows in 32 parts": Case("official", {"batch_size": 256, "accumulate": 32, **LORA}),
    "LoRA, float32 base, 1 row": Case("official", {"batch_size": 1, **LORA, "frozen_dtype": "float32"}),
}
"""Name -> case, all with remat="full"; rows are of 384 places, and of 2048 where they are packed."""
