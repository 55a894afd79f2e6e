"""Imagined video beside what really happened: how close, how far ahead, and strips to look at."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _LABEL = 2, 15  # pixels between frames, and above each row


def psnr(frames: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Decibels of each frame of float[..., h, w, 3] in [0, 1]: float[...]."""
    error = np.mean(np.square(np.asarray(frames, np.float64) - truth), axis=(-3, -2, -1))
    return -10.0 * np.log10(np.maximum(error, 1e-10))


def summarise(
    truth: np.ndarray,
    found: Mapping[str, np.ndarray],
    lengths: np.ndarray,
    codes: np.ndarray,
    true_codes: np.ndarray,
) -> dict[str, Any]:
    """PSNR at each step ahead, beside that of the first frame kept, and how often codes agree.

    Args:
        truth: float[S + 1, B, h, w, 3], the video. found: name -> float[S, B, h, w, 3].
        lengths: int[B], steps that each video has; later ones do not count.
        codes, true_codes: int[S, B, N], as the VLM chose and as the LAQ labels the video.
    """
    steps = len(truth) - 1
    there = np.arange(1, steps + 1)[:, None] <= lengths  # [S, B]
    rows = {**found, "first_frame": np.broadcast_to(truth[:1], truth[1:].shape)}
    means = {name: _means(psnr(frames, truth[1:]), there) for name, frames in rows.items()}
    agree = _means((codes == true_codes).mean(axis=-1), there)
    return {"psnr": means, "code_agreement": agree, "videos": there.sum(axis=1).tolist()}


def _means(values: np.ndarray, there: np.ndarray) -> list[float]:
    """Over the videos that are long enough, step by step."""
    return [float(row[mask].mean()) for row, mask in zip(values, there, strict=True) if mask.any()]


def strip(
    rows: Mapping[str, np.ndarray], caption: str, notes: Mapping[str, Sequence[str]], scale: int
) -> Image.Image:
    """A picture of some rows of frames, each under its name.

    Args:
        rows: name -> float[S, h, w, 3] in [0, 1]; rows may differ in length.
        notes: name -> what stands above each frame.
        scale: pixels of the picture a pixel of a frame.
    """
    height, width = (side * scale for side in next(iter(rows.values())).shape[1:3])
    columns = max(len(frames) for frames in rows.values())
    line = height + _LABEL + _GAP
    picture = Image.new("RGB", (columns * (width + _GAP), line * len(rows) + _LABEL + 4), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    draw.text((2, 1), caption, fill="black", font=font)
    for i, (name, frames) in enumerate(rows.items()):
        top = _LABEL + 4 + i * line
        texts = [name, *notes.get(name, ())]
        for column, frame in enumerate(frames):
            left = column * (width + _GAP)
            if column < len(texts):
                draw.text((left + 1, top), texts[column], fill="gray", font=font)
            picture.paste(_image(frame, scale), (left, top + _LABEL))
    return picture


def _image(frame: np.ndarray, scale: int) -> Image.Image:
    pixels = np.round(np.clip(frame, 0.0, 1.0) * 255).astype(np.uint8)
    size = pixels.shape[1] * scale, pixels.shape[0] * scale
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def save_strips(folder: pathlib.Path, strips: Sequence[Image.Image]) -> pathlib.Path:
    """Each as a PNG, and all below each other in `strips.png`, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(strips):
        picture.save(folder / f"strip_{i:03d}.png")
    whole = Image.new("RGB", (max(p.width for p in strips), sum(p.height for p in strips)), "white")
    top = 0
    for picture in strips:
        whole.paste(picture, (0, top))
        top += picture.height
    path = folder / "strips.png"
    whole.save(path)
    return path
