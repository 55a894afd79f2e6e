"""What a frozen tower sees in an image, for targets and perceptual losses."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax.models import vision

FROZEN = "frozen"
"""The variable collection of a tower's weights; no optimizer sees it."""


def features(spec: Mapping[str, Any], params: Any, image: jax.Array) -> jax.Array:
    """Patch features of a tower, each of zero mean and unit variance: float32[B, h, w, D].

    The gradient reaches the image and, where they are trained, the parameters.

    Args:
        spec: keyword arguments of the `vision.VisionTower`.
        image: float[B, H, W, 3] in [0, 1].
    """
    x = vision.VisionTower(**dict(spec), parent=None).apply({"params": params}, image)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def random_tower(spec: Mapping[str, Any], key: jax.Array, image_size: int | None = None) -> Any:
    """Parameters of a tower, of the right shapes, to be replaced by trained ones.

    Args:
        image_size: pixels of the images it will see; None for any that fits.

    Raises:
        UserError: it cannot see images of that size.
    """
    size = image_size or 4 * spec["patch_size"]
    tower = vision.VisionTower(**dict(spec), parent=None)
    return tower.init(key, jnp.zeros((1, size, size, 3)))["params"]
