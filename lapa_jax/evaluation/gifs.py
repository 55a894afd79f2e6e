"""Rollouts as animated GIFs, written with Pillow."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lapa_jax.errors import UserError

FONT_SIZE = 13
LINE_HEIGHT = 18  # pixels


def write_gif(
    path: str | os.PathLike,
    frames: np.ndarray,
    caption: str | None = None,
    scale: int = 4,
    fps: float = 10,
) -> Path:
    """Writes uint8[T, H, W, 3] frames as an endless GIF, `scale` times larger, caption below.

    Raises:
        UserError: frames of another shape or type, or none at all.
    """
    images = captioned(frames, caption, scale)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, images, fps)
    return path


def save(path: Path, images: Sequence[Image.Image], fps: float) -> None:
    """Images of one size as an endless GIF."""
    duration = round(1000 / fps)  # milliseconds a frame
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)


def captioned(frames: np.ndarray, caption: str | None, scale: int) -> list[Image.Image]:
    """uint8[T, H, W, 3] frames as images, `scale` times larger, caption below.

    Raises:
        UserError: frames of another shape or type, or none at all.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise UserError(f"a film needs uint8[T, H, W, 3], got {frames.dtype}{list(frames.shape)}")
    images = [_enlarge(frame, scale) for frame in frames]
    if not caption:
        return images
    strip = _caption_strip(caption, images[0].width)
    return [_stack(image, strip) for image in images]


def _enlarge(frame: np.ndarray, scale: int) -> Image.Image:
    height, width = frame.shape[:2]
    return Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.NEAREST)


def _caption_strip(caption: str, width: int) -> Image.Image:
    font = ImageFont.load_default(size=FONT_SIZE)
    letters = max(1, int((width - 16) / font.getlength("n")))
    lines = textwrap.wrap(caption, letters) or [""]
    strip = Image.new("RGB", (width, LINE_HEIGHT * len(lines) + 10), "white")
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        draw.text((8, 5 + LINE_HEIGHT * row), line, fill="black", font=font)
    return strip


def _stack(image: Image.Image, strip: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (image.width, image.height + strip.height))
    whole.paste(image, (0, 0))
    whole.paste(strip, (0, image.height))
    return whole
