"""Pure functions of one encoded frame or one trajectory; the loader maps them over indices."""

import io

import numpy as np
import simplejpeg
from PIL import Image


def decode_image(encoded: bytes, image_size: int | None = None) -> np.ndarray:
    """Decodes a PNG or JPEG to uint8[H, W, 3]; `image_size` resizes it to a square of that side.

    Raises:
        OSError: not a whole image.
    """
    if encoded[:2] == b"\xff\xd8":
        try:  # the pixels that Pillow gives, in two thirds of the time
            return resize(simplejpeg.decode_jpeg(encoded), image_size)
        except ValueError:  # colour spaces that it does not know; Pillow says what is wrong with the others
            pass
    with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG")) as image:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.asarray(_resized(rgb, image_size), dtype=np.uint8)


def resize(image: np.ndarray, image_size: int | None) -> np.ndarray:
    """uint8[H, W, 3] -> uint8[image_size, image_size, 3]; None leaves it as it is."""
    if image_size is None or image.shape[:2] == (image_size, image_size):
        return image
    return np.asarray(_resized(Image.fromarray(image), image_size), dtype=np.uint8)


def _resized(image: Image.Image, image_size: int | None) -> Image.Image:
    if image_size is None or image.size == (image_size, image_size):
        return image
    # Bilinear over the whole footprint of a pixel: Pillow antialiases when it shrinks.
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR)


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8[H, W, 3] as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def chunk(trajectory: np.ndarray, start: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts `horizon` rows from `start`; past the end the last row repeats and the mask is False.

    Args:
        trajectory: float32[T, A].
        start: first row, 0 <= start < T.
        horizon: number of rows to return.

    Returns:
        (float32[horizon, A], bool[horizon]).
    """
    rows = start + np.arange(horizon)
    return trajectory[np.minimum(rows, len(trajectory) - 1)], rows < len(trajectory)


def window(last: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The `size` steps that end with `last`; before the first step it repeats and the mask is False.

    Returns:
        (int64[size], bool[size]).
    """
    steps = last - size + 1 + np.arange(size)
    return np.maximum(steps, 0), steps >= 0


class StepIndex:
    """Numbers the first `length - gap` steps of every episode 0..len-1, episode by episode."""

    def __init__(self, lengths: np.ndarray, gap: int = 0):
        """lengths: int64[E], steps per episode; episodes of `gap` steps or fewer have no entry."""
        self._ends = np.cumsum(np.maximum(np.asarray(lengths, np.int64) - gap, 0))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Returns (episode, t) of entry `index`."""
        episode = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[episode - 1]) if episode else 0
        return episode, index - start
