"""Frozen networks between pixels and the VLM, all with one call: ids of an image tokenizer, or features."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lapa_jax import errors
from lapa_jax.models import perceptual, vision, vqgan

KINDS = ("tokenizer", "tower")
FROZEN, NAME = perceptual.FROZEN, "image_encoder"
"""Where an encoder's weights are among the variables of a train state."""


@dataclasses.dataclass(frozen=True)
class ImageEncoder:
    """A frozen encoder by what it is made of; all fields are JSON values, so that one can live in a config.

    Attributes:
        kind: "tokenizer", a `vqgan.VQGAN`, or "tower", a `vision.VisionTower`.
        spec: its keyword arguments.
        image_size: pixels of its images.
        ids: ids of codes instead of features; a tower has none.
        pool: features are averaged over squares of so many cells a side.
    """

    kind: str
    spec: Mapping[str, Any]
    image_size: int
    ids: bool
    pool: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.ids and self.kind == "tower"):
            raise errors.UserError(f"no image encoder of kind {self.kind!r} with ids={self.ids}")
        side = self.image_size // self.cell
        if self.image_size % self.cell or not side:
            raise errors.UserError(
                f"data.image_size={self.image_size} does not fit the image encoder: give a multiple of {self.cell}"
            )
        if self.pool < 1 or side % self.pool:
            raise errors.UserError(f"pool={self.pool} does not divide a grid of {side}x{side} cells")
        if self.ids and self.pool > 1:
            raise errors.UserError(f"pool={self.pool} averages features, and this encoder gives ids: leave it out")

    @property
    def cell(self) -> int:
        """Pixels that an id or a feature is wide, before pooling."""
        return self._network().factor if self.kind == "tokenizer" else self.spec["patch_size"]

    @property
    def num_tokens(self) -> int:
        """Ids or features of an image."""
        return (self.image_size // self.cell // self.pool) ** 2

    @property
    def num_codes(self) -> int:
        """Ids are below this."""
        return self.spec["num_codes"]

    def __call__(self, variables: Any, image: jax.Array) -> jax.Array:
        """uint8[..., H, W, 3] -> int32[..., P], or float32[..., P, F], row by row; without gradient.

        Raises:
            UserError: images of another size or kind of number.
        """
        size = self.image_size
        if image.dtype != jnp.uint8 or image.shape[-3:] != (size, size, 3):
            raise errors.UserError(
                f"the image encoder takes uint8[..., {size}, {size}, 3], not {image.dtype}{list(image.shape)}"
            )
        images = image.reshape(-1, size, size, 3)
        found = self._ids(variables, images) if self.ids else self._features(variables, images)
        return jax.lax.stop_gradient(found.reshape(*image.shape[:-3], *found.shape[1:]))

    def init(self, key: jax.Array) -> Any:
        """Variables of the right shapes, to be replaced by trained ones."""
        if self.kind == "tower":
            return perceptual.random_tower(self.spec, key, self.image_size)
        return vqgan.init_fn(self._network(), self.image_size)(key)

    def to_json(self) -> dict[str, Any]:
        """`ImageEncoder(**...)` takes it back."""
        return dataclasses.asdict(self)

    def _network(self) -> Any:
        return vqgan.from_config(self.spec) if self.kind == "tokenizer" else vision.VisionTower(**self.spec)

    def _ids(self, variables: Any, images: jax.Array) -> jax.Array:
        ids = self._network().apply(variables, images, method="encode").ids
        return ids.reshape(len(images), -1)

    def _features(self, variables: Any, images: jax.Array) -> jax.Array:
        if self.kind == "tower":
            found = self._network().apply({"params": variables}, images.astype(jnp.float32) / 255.0)
        else:
            found = self._network().apply(variables, images, method="encode").z
        return pooled(found, self.pool).reshape(len(images), -1, found.shape[-1])


def pooled(features: jax.Array, pool: int) -> jax.Array:
    """Means over squares of a grid: float[B, h, w, F] -> float[B, h / pool, w / pool, F]."""
    if pool == 1:
        return features
    count, height, width, size = features.shape
    return features.reshape(count, height // pool, pool, width // pool, pool, size).mean(axis=(2, 4))


def looked(encoder: ImageEncoder | None, variables: Any, image: jax.Array) -> jax.Array:
    """What the VLM gets to see of images: what the encoder gives for pixels, and anything else as it is.

    Args:
        variables: the collections of a train state, in which the encoder's own are frozen.
    """
    if encoder is None or image.dtype != jnp.uint8:
        return image
    return encoder(variables[FROZEN][NAME], image)


def frozen(encoder: ImageEncoder | None, key: jax.Array) -> dict[str, Any]:
    """The collection that `looked` reads, of the right shapes; empty without an encoder."""
    return {} if encoder is None else {FROZEN: {NAME: encoder.init(key)}}
