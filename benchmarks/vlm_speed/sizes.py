"""Sizes of the trunk that is measured, its work in FLOPs, and the ids that all contestants get."""

import dataclasses

import numpy as np

CODES = 4  # latents after a prompt


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of LLaMA over one vocabulary.

    Attributes:
        row: tokens of a row in training.
        prompt: tokens before the latents in generation.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    vocab: int = 32_000
    row: int = 384
    prompt: int = 300

    @property
    def trunk(self) -> dict[str, int]:
        """Keyword arguments of our trunk."""
        return {name: getattr(self, name) for name in ("width", "depth", "num_heads", "mlp_dim")}


SIZES = {
    "7b": Sizes(4096, 32, 32, 11008),
    "3b": Sizes(3200, 26, 32, 8640),
    "1b": Sizes(2048, 22, 32, 5632),
    "200m": Sizes(1024, 12, 16, 2816),
    "small": Sizes(512, 4, 8, 1376, vocab=8192),
    "demo": Sizes(128, 2, 4, 256, vocab=1024),
    "toy": Sizes(32, 2, 2, 64, vocab=64, row=24, prompt=20),
}
"""The larger ones are those of `llama.SIZES`, and fit accelerators."""


def layer_products(sizes: Sizes) -> int:
    """Weights of the products of all layers."""
    return sizes.depth * (4 * sizes.width**2 + 3 * sizes.width * sizes.mlp_dim)


def train_flops(sizes: Sizes, predicted: int | None = None, row: int | None = None) -> float:
    """Of the matrix products of a forward and a backward pass over one row; the latter counts twice.

    Attention counts as if every token saw the whole row, which is what is computed where nothing skips.

    Args:
        predicted: places where the head runs; None: all.
        row: tokens, `sizes.row` by default.
    """
    row = sizes.row if row is None else row
    head = sizes.width * sizes.vocab * (row if predicted is None else predicted)
    return 6.0 * (row * layer_products(sizes) + 2 * sizes.depth * row**2 * sizes.width + head)


def rows(sizes: Sizes, count: int, seed: int = 0) -> np.ndarray:
    """int32[count, row]: tokens of training."""
    return np.random.default_rng(seed).integers(0, sizes.vocab, (count, sizes.row), np.int32)


def prompts(sizes: Sizes, count: int, seed: int = 1) -> np.ndarray:
    """int32[count, prompt]."""
    return np.random.default_rng(seed).integers(0, sizes.vocab, (count, sizes.prompt), np.int32)
