"""Toy video files whose frames say which they are."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_FAST = {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "4000000"}
_CODECS = {
    ".webm": ("libvpx-vp9", _FAST),
    ".mp4": ("libx264", {}),
    ".mkv": ("libx264", {}),
    ".ts": ("libx264", {"g": "10"}),  # its clock starts at 1.4 s, and seeking in it goes astray
    ".avi": ("mpeg4", {"b": "4000000", "qmin": "1"}),
}
_DARKEST, _STEP = 20, 6  # grey levels; lossy codecs keep flat grey to within 2


def counters(count: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Flat grey frames, of which `number` tells the position: at most 38, size (W, H)."""
    return [np.full((size[1], size[0], 3), _DARKEST + _STEP * i, np.uint8) for i in range(count)]


def number(frame: np.ndarray) -> int:
    """Which frame of `counters` this is."""
    position = (float(np.mean(frame)) - _DARKEST) / _STEP
    assert abs(position - round(position)) < 0.4, f"no counter frame: mean {np.mean(frame)}"
    return round(position)


def write(
    path: Path,
    frames: list[np.ndarray],
    rate: float = 10,
    *,
    times: list[float] | None = None,
    codec: str | None = None,
    rotation: int = 0,
    container_options: dict | None = None,
) -> Path:
    """Writes uint8[H, W, 3] frames; `times` in seconds overrides `rate`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name, options = _CODECS[path.suffix] if codec is None else (codec, _FAST if "vpx" in codec else {})
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(name, rate=Fraction(rate).limit_denominator(1001), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p" if not (stream.width % 2 or stream.height % 2) else "yuv444p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[i] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A second of silence, and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac" if path.suffix == ".mp4" else "libopus", rate=48000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), format="fltp", layout="mono")
        frame.rate = 48000
        size = stream.codec_context.frame_size or 960
        resampler = av.AudioResampler(stream.format, "mono", 48000, frame_size=size)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8[H, W, 3] with corners at many scales, as photographs have."""
    rng, total = np.random.default_rng(seed), 0.0
    for cell in (4, 8, 16, 32):
        coarse = rng.uniform(0, 1, (height // cell + 2, width // cell + 2, 3))
        total = total + np.kron(coarse, np.ones((cell, cell, 1)))[:height, :width]
    return (total / 4 * 255).astype(np.uint8)


def truncate(path: Path, share: float) -> Path:
    """Keeps the first `share` of the file."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path
