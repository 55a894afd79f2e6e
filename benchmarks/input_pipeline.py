"""Frame pairs a second of the loader, beside a plain Python loop measured in the same run.

    python benchmarks/input_pipeline.py

Numbers of one machine on one day: compare the ratios. Each is the median over rounds in which the
contenders take turns, so that other load on the machine falls on all of them.
"""

import datetime
import io
import os
import pathlib
import platform
import time
from collections.abc import Iterator

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw

from lapa_jax.data import loader, rlds, transforms

SECONDS = flags.DEFINE_float("seconds", 0.7, "Measured in each turn.")
ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of each contender.")
GAP, BATCH = 4, 32
EPISODES = {64: 40, 256: 10}  # image size -> how many of LENGTH frames
LENGTH = 40
WARM_UP = 6  # batches; more than the loader reads ahead
BASELINE = "plain loop"


def draw_episodes(num_episodes: int, size: int) -> rlds.Episodes:
    """Discs that drift over a shaded, grainy table, as PNG."""
    rng = np.random.default_rng(0)
    frames = tuple(_draw_episode(rng, size) for _ in range(num_episodes))
    return rlds.Episodes(
        fingerprint=f"benchmark-{num_episodes}-{size}", view="video", image_shape=(size, size, 3),
        instructions=("push the red disc",) * num_episodes, arrays={}, frames=frames,
    )


def _draw_episode(rng: np.random.Generator, size: int) -> tuple[bytes, ...]:
    shade = np.linspace(120, 160, size)[:, None, None]
    table = (shade + rng.integers(0, 4, (size, size, 3))).astype(np.uint8)
    place, drift = rng.uniform(0.2, 0.8, (5, 2)), rng.uniform(-0.01, 0.01, (5, 2))
    colours = rng.integers(0, 255, (5, 3))
    encoded = []
    for t in range(LENGTH):
        image = Image.fromarray(table)
        pen = ImageDraw.Draw(image)
        for (x, y), colour in zip((place + t * drift) * size, colours.tolist(), strict=True):
            pen.ellipse((x - size / 12, y - size / 12, x + size / 12, y + size / 12), fill=tuple(colour))
        encoded.append(transforms.encode_png(np.asarray(image)))
    return tuple(encoded)


def plain_loop(episodes: rlds.Episodes) -> Iterator[dict[str, np.ndarray]]:
    """The baseline: draw pairs at random and decode both frames with Pillow, one after the other."""
    rng = np.random.default_rng(0)

    def decode(episode: int, step: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(episodes.frames[episode][step])).convert("RGB"))

    while True:
        pairs = [(rng.integers(len(episodes)), rng.integers(LENGTH - GAP)) for _ in range(BATCH)]
        frame = np.stack([decode(e, t) for e, t in pairs])
        yield {"frame": frame, "next_frame": np.stack([decode(e, t + GAP) for e, t in pairs])}


def speed(batches: Iterator[dict[str, np.ndarray]], seconds: float) -> float:
    """Pairs a second, after a warm-up that uses up what was read ahead."""
    for _ in range(WARM_UP):
        next(batches)
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        count += len(next(batches)["frame"])
    return count / elapsed


def compare(size: int) -> str:
    """One line of the table."""
    episodes = draw_episodes(EPISODES[size], size)
    clock = time.perf_counter()
    decoded = episodes.decoded()
    once = time.perf_counter() - clock
    contenders = {
        BASELINE: plain_loop(episodes),
        "encoded": loader.frame_pairs(episodes, GAP, BATCH),
        "decoded once": loader.frame_pairs(decoded, GAP, BATCH),
    }
    rounds = [{n: speed(c, SECONDS.value) for n, c in contenders.items()} for _ in range(ROUNDS.value)]
    cells = []
    for name in contenders:
        ratio = np.median([r[name] / r[BASELINE] for r in rounds])
        cells.append(f"{np.median([r[name] for r in rounds]):7.0f} ({ratio:5.2f}x)")
    millis = 1000 * once / episodes.num_frames
    return f"{size:4d} px  {'   '.join(f'{cell:>18}' for cell in cells)}   {millis:12.2f} ms"


def machine() -> str:
    """Processor and number of cores."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main(_: list[str]) -> None:
    print(f"input pipeline: frame pairs/s (ratio to the {BASELINE}), batch {BATCH}, PNG")
    print(f"{machine()}; Python {platform.python_version()}; {datetime.date.today()}")
    heads = (BASELINE, "loader, encoded", "loader, decoded")
    print(f"{'':7}  {'   '.join(f'{head:>18}' for head in heads)}   {'decode once':>15}")
    for size in EPISODES:
        print(compare(size), flush=True)


if __name__ == "__main__":
    app.run(main)
