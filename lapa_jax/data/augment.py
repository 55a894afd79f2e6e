"""Random crops and colours, drawn once a sample and applied alike to all its frames."""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

from lapa_jax import errors

Change = Callable[[np.ndarray], np.ndarray]
_COLOURS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


@dataclasses.dataclass(frozen=True)
class Augment:
    """How much frames may change; the defaults change nothing.

    Attributes:
        crop: smallest share of the area that a crop keeps, 0 < crop <= 1; it is resized back.
        brightness: a factor is drawn from [1 - x, 1 + x]; so for contrast and saturation. 0 <= x <= 1.
        contrast: see brightness.
        saturation: see brightness.
        hue: the colour circle is turned by up to this share of it, 0 <= x <= 0.5.
    """

    crop: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        limits = {
            "brightness": (0, 1),
            "contrast": (0, 1),
            "saturation": (0, 1),
            "hue": (0, 0.5),
            "crop": (1e-3, 1),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise errors.UserError(f"data.augment.{name} {getattr(self, name)} is outside {low}..{high}")

    def draw(self, rng: np.random.Generator) -> Change:
        """One change, for all frames of a sample: uint8[H, W, 3] -> uint8[H, W, 3]."""
        if self == Augment():
            return lambda image: image
        side, x, y = np.sqrt(rng.uniform(self.crop, 1)), rng.random(), rng.random()
        factors = {name: rng.uniform(1 - getattr(self, name), 1 + getattr(self, name)) for name in _COLOURS}
        turn = int(round(rng.uniform(-self.hue, self.hue) * 255))

        def change(image: np.ndarray) -> np.ndarray:
            out = _crop(Image.fromarray(image), side, x, y) if self.crop < 1 else Image.fromarray(image)
            for name, enhance in _COLOURS.items():
                if getattr(self, name):
                    out = enhance(out).enhance(factors[name])
            return np.asarray(_turn_hue(out, turn) if turn else out, np.uint8)

        return change


def _crop(image: Image.Image, side: float, x: float, y: float) -> Image.Image:
    """`side` of both edges, from the corner at the shares (x, y) of the room that is left."""
    width, height = image.size
    left, top = x * (1 - side) * width, y * (1 - side) * height
    box = (left, top, left + side * width, top + side * height)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=box)


def _turn_hue(image: Image.Image, turn: int) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = Image.fromarray(((np.asarray(hue, np.int16) + turn) % 256).astype(np.uint8))
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
