"""Pictures: which files are some, which size they get, which part is kept, and their JPEG bytes."""

import dataclasses
import io
import re
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from lapa_jax import errors

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FITS = ("stretch", "crop", "whole")
_ORIENTATION = 274  # the EXIF tag


@dataclasses.dataclass(frozen=True)
class Picture:
    """The size that frames are decoded to.

    Attributes:
        size: side of the square; of "whole" the most that the short side has.
        fit: "stretch" squeezes the whole frame into the square, as official LAPA does; "crop" cuts
            the largest square from the centre; "whole" keeps the frame's aspect and is no square.
    """

    size: int
    fit: Literal["stretch", "crop", "whole"] = "stretch"

    def __post_init__(self):
        if self.fit not in _FITS:
            raise errors.UserError(f"no fit {self.fit!r}; choose one of: {', '.join(_FITS)}")
        if self.size < 8:
            raise errors.UserError(f"frames of {self.size} px hold no picture; use a size of 8 or more")

    def scaled(self, width: float, height: float) -> tuple[int, int]:
        """(width, height) to which a frame of that size is scaled, before `cropped`."""
        if self.fit == "stretch":
            return self.size, self.size
        scale = self.size / min(width, height)
        if self.fit == "whole":
            scale = min(scale, 1.0)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def cropped(self, image: np.ndarray) -> np.ndarray:
        """The part of a scaled uint8[H, W, 3] that is kept."""
        if self.fit != "crop":
            return image
        top, left = ((side - self.size) // 2 for side in image.shape[:2])
        return image[top : top + self.size, left : left + self.size]

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """uint8[H, W, 3] of any size -> scaled and cropped."""
        target = self.scaled(image.shape[1], image.shape[0])
        if target != (image.shape[1], image.shape[0]):
            resized = Image.fromarray(image).resize(target, Image.Resampling.BILINEAR)
            image = np.asarray(resized, dtype=np.uint8)
        return self.cropped(image)


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encodes uint8[H, W, 3]; `quality` 1..95 is that of Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def decode(encoded: bytes, what: str | Path) -> np.ndarray:
    """Decodes to uint8[H, W, 3], turned as its EXIF orientation says.

    Raises:
        UserError: `encoded` is no image or ends too early; the message names `what`.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            turned = ImageOps.exif_transpose(image)
            return np.asarray(turned.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise errors.UserError(f"{what} is no image that can be read; fetch it again or remove it") from error


def is_jpeg_of_size(encoded: bytes, size: int) -> bool:
    """Whether `encoded` is an upright RGB JPEG of `size` x `size`; looks at its header only."""
    try:
        with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
            upright = image.getexif().get(_ORIENTATION, 1) == 1
            return image.size == (size, size) and image.mode == "RGB" and upright
    except (OSError, ValueError, SyntaxError):
        return False


def image_files(folder: str | Path) -> list[str]:
    """Names of the images in a folder, in order; numbers count by value: 2 comes before 10."""
    return sorted((p.name for p in Path(folder).iterdir() if is_image_name(p.name)), key=natural)


def is_image_name(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def natural(name: str) -> tuple:
    """Sorts names as a person would."""
    # The split has digits at its odd places, so that numbers are compared with numbers only.
    parts = re.split(r"(\d+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def read(path: str | Path) -> bytes:
    """Raises UserError when there is no such file that can be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read ({error.strerror})") from error
