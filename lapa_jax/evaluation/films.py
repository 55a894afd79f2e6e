"""Episodes as video files: mp4 where PyAV is there (the extra `[video]`), GIF anywhere."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lapa_jax import errors
from lapa_jax.evaluation import gifs

FPS = 10.0
"""Of environments that do not say."""

_WIDTH = 256  # pixels, at least: small images are enlarged by a whole number


def suffix() -> str:
    """Of the files that can be written here: `.mp4`, or `.gif` without PyAV."""
    return ".mp4" if importlib.util.find_spec("av") else ".gif"


def write(path: str | os.PathLike, frames: np.ndarray, caption: str, fps: float = FPS) -> None:
    """Writes uint8[T, H, W, 3] frames as an mp4 or a GIF, caption below; a file is there whole or not at all.

    Raises:
        UserError: another suffix, frames of another shape or type, or none.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise errors.UserError(f"{path} is no name for a film: end it with {' or '.join(_WRITERS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished{path.suffix}")
    scale = max(1, _WIDTH // frames.shape[2])
    _WRITERS[path.suffix](unfinished, gifs.captioned(frames, caption, scale), fps)
    unfinished.replace(path)


def _write_mp4(path: Path, images: Sequence[Image.Image], fps: float) -> None:
    """H.264 with half the colour resolution, which every player and browser shows."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.width, stream.height = (2 * (side // 2) for side in images[0].size)  # such pictures are even
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for image in images:
            cropped = image.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(cropped)))
        container.mux(stream.encode())


_WRITERS = {".mp4": _write_mp4, ".gif": gifs.save}
