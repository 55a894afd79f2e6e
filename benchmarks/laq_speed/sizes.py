"""Sizes of the network that is measured, its work in FLOPs, and the batch that all contestants get."""

import dataclasses

import numpy as np

CODE_LENGTH = 4  # codes a pair


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the official LAQ: pixels for the image, `depth` layers in each of the three transformers."""

    dim: int
    depth: int
    heads: int
    head_dim: int
    image_size: int
    patch_size: int
    code_dim: int = 32
    num_codes: int = 8

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size


SIZES = {
    "official": Sizes(1024, 8, 16, 64, image_size=256, patch_size=32),
    "small": Sizes(256, 4, 4, 64, image_size=64, patch_size=8),
    "toy": Sizes(16, 1, 2, 8, image_size=24, patch_size=8, code_dim=4),
}


def label_flops(sizes: Sizes) -> float:
    """Of the matrix products that turn one pair into codes; a product and a sum are two."""
    tokens, dim, inner, code = sizes.grid**2, sizes.dim, sizes.heads * sizes.head_dim, sizes.code_dim
    half = (sizes.grid + 1) // 2
    read = dim * code + 9 * code**2 * (half / sizes.grid) ** 2
    layers = sizes.depth * (2 * _layer(sizes) + 2 * inner * (tokens + 2))  # attention over P patches, over 2 frames
    return 2 * 2 * tokens * (3 * sizes.patch_size**2 * dim + layers + read)


def train_flops(sizes: Sizes) -> float:
    """Of the matrix products of a forward and a backward pass over one pair; the latter counts twice."""
    tokens, dim, inner = sizes.grid**2, sizes.dim, sizes.heads * sizes.head_dim
    cross = 2 * dim * inner + 2 * inner * (CODE_LENGTH + 2)
    decode = tokens * (sizes.depth * (_layer(sizes) + 2 * inner * tokens + cross) + 3 * sizes.patch_size**2 * dim)
    context = CODE_LENGTH * (sizes.depth * 2 * dim * inner + sizes.code_dim * dim)
    return 3 * (label_flops(sizes) + 2 * (decode + context))


def _layer(sizes: Sizes) -> float:
    """Products a token in self-attention's four projections and the feed-forward."""
    feed_forward = 3 * int(4 * (2 / 3) * sizes.dim) * sizes.dim
    return 4 * sizes.dim * sizes.heads * sizes.head_dim + feed_forward


def batch(sizes: Sizes, count: int, seed: int = 0) -> np.ndarray:
    """Pairs of frames float32[2, B, H, W, 3] in [0, 1]: blurs, and the same moved by a patch."""
    random, side, patch = np.random.default_rng(seed), sizes.image_size, sizes.patch_size
    coarse = random.random((count, side // patch + 2, side // patch + 2, 3), dtype=np.float32)
    scene = np.kron(coarse, np.ones((1, patch, patch, 1), np.float32))
    down, right = random.integers(0, patch, (2, count))
    moved = [image[i : i + side, j : j + side] for image, i, j in zip(scene, down, right, strict=True)]
    return np.stack([scene[:, :side, :side], np.stack(moved)])
