"""The report's pictures: PNG bytes for frames, inline SVG text for charts.

Charts are drawn with stand-in colours that become CSS variables, so that one drawing follows the
reader's light or dark theme.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lapa_jax.evaluation import intervals

# Stand-in colour -> CSS variable of the page.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707")
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line"} | {
    colour: f"series{i}" for i, colour in enumerate(SERIES)
}
MAX_POINTS = 160  # a training curve is averaged down to this many points


def png(image: np.ndarray, scale: int = 2) -> bytes:
    """uint8[H, W, 3] -> PNG bytes, enlarged without smoothing."""
    height, width = image.shape[:2]
    size = (width * scale, height * scale)
    buffer = io.BytesIO()
    picture = Image.fromarray(np.asarray(image, np.uint8)).resize(size, Image.Resampling.NEAREST)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def difference(a: np.ndarray, b: np.ndarray, full_scale: float = 96.0) -> np.ndarray:
    """|a - b| of uint8[H, W, 3] images as a heat map; brightest at `full_scale` grey levels."""
    error = np.abs(a.astype(np.float32) - b.astype(np.float32)).mean(axis=-1) / full_scale
    heat = matplotlib.colormaps["inferno"](np.clip(error, 0, 1))
    return np.round(255 * heat[..., :3]).astype(np.uint8)


def loss_chart(title: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Loss against step as SVG: training thin, validation bold; one colour for each run."""
    figure, axes = _axes(3.7, 2.8)
    for colour, (name, records) in zip(SERIES, runs.items(), strict=False):
        prefix = f"{name}, " if len(runs) > 1 else ""
        for split, style in (("train", {"alpha": 0.55, "lw": 1.1}), ("val", {"lw": 2.2})):
            steps, losses = _curve(records, split)
            if len(steps):
                marker = "o" if split == "val" and len(steps) < 25 else None
                label = prefix + {"train": "training", "val": "validation"}[split]
                axes.plot(steps, losses, c=colour, label=label, marker=marker, ms=3.5, **style)
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    axes.set_xlabel("step", fontsize=9, color=MUTED)
    _log_if_positive(axes)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=MUTED)
    return _svg(figure, f"{title}: loss against training step", salt=title)


def success_chart(results: Mapping[str, Any]) -> str:
    """Grouped bars as SVG: success rate of each policy in each family, with 95 % intervals."""
    rows, groups = intervals.rate_rows(results), [*intervals.family_names(results), "all"]
    figure, axes = _axes(9.0, 3.4)
    width = 0.8 / max(len(rows), 1)
    for index, (policy, rates) in enumerate(rows.items()):
        shift = (index - (len(rows) - 1) / 2) * width
        shown = [(g + shift, r) for g, r in enumerate(rates) if r is not None]
        _bars(axes, shown, width * 0.86, policy, SERIES[index % len(SERIES)])
    labels = [group.replace("_", " ") for group in groups]
    axes.set_xticks(range(len(groups)), labels, fontsize=9.5, color=INK)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"])
    axes.axvline(len(groups) - 1.5, color=GRID, lw=1)
    axes.legend(
        frameon=False, fontsize=9, labelcolor=INK, ncols=4, loc="lower left", bbox_to_anchor=(0, 1)
    )
    return _svg(figure, "success rate per family and policy", salt="success")


def compass(
    motion: np.ndarray, std: np.ndarray, reach: float, highlight: int | None = None
) -> str:
    """Mean motion of each code as arrows in a circle, as SVG.

    Args:
        motion: float[K, 2] metres, x right and y up; nan for a code without examples.
        std: float[K, 2] metres, drawn as an ellipse around the highlighted tip.
        reach: metres at the outer circle.
        highlight: draw this code in colour, the others faint; None draws and numbers all.
    """
    scale = 78 / reach
    parts = ['<circle r="78" class="ring"/><circle r="39" class="ring"/>']
    parts.append('<path d="M-78 0H78M0 -78V78" class="ring"/>')
    order = sorted(range(len(motion)), key=lambda k: k == highlight)  # the highlighted on top
    for code in order:
        if np.isfinite(motion[code]).all():
            x, y = float(motion[code, 0]) * scale, -float(motion[code, 1]) * scale
            faint = highlight is not None and code != highlight
            if code == highlight:
                rx, ry = (float(np.nan_to_num(s)) * scale for s in std[code])
                tip = f'cx="{x:.1f}" cy="{y:.1f}"'
                parts.append(f'<ellipse {tip} rx="{rx:.1f}" ry="{ry:.1f}" class="spread"/>')
            parts.append(_arrow(x, y, "arrow faint" if faint else "arrow"))
            if highlight is None:
                parts.append(_arrow_label(x, y, code))
    name = "all codes" if highlight is None else f"code {highlight}"
    return (
        f'<svg class="compass" viewBox="-97 -97 194 194" role="img" '
        f'aria-label="mean motion, {name}">{"".join(parts)}</svg>'
    )


def compass_reach(motion: np.ndarray) -> float:
    """A round number of metres that holds every mean motion of float[K, 2]."""
    lengths = np.linalg.norm(motion, axis=-1)
    longest = float(np.nanmax(lengths)) if np.isfinite(lengths).any() else 0.0
    if longest <= 0:
        return 0.01
    power = 10.0 ** math.floor(math.log10(longest))
    return next(m * power for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * power >= longest * 0.999)


def _arrow(x: float, y: float, css: str) -> str:
    length = math.hypot(x, y)
    if length < 3:
        return f'<circle r="4" class="{css} dot"/>'
    ux, uy, head = x / length, y / length, min(12.0, length * 0.6)
    bx, by = x - ux * head, y - uy * head
    wing = head * 0.45
    return (
        f'<path class="{css}" d="M0 0L{bx:.1f} {by:.1f}"/>'
        f'<path class="{css} tip" d="M{x:.1f} {y:.1f}L{bx - uy * wing:.1f} {by + ux * wing:.1f}'
        f'L{bx + uy * wing:.1f} {by - ux * wing:.1f}Z"/>'
    )


def _arrow_label(x: float, y: float, code: int) -> str:
    length = math.hypot(x, y) or 1.0
    lx, ly = x + 12 * x / length, y + 12 * y / length
    return f'<text x="{lx:.1f}" y="{ly:.1f}" dy="0.35em">{code}</text>'


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(which="both", length=0, labelcolor=MUTED, labelsize=9)
    axes.grid(axis="y", which="major", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _bars(axes: Axes, shown: Sequence[tuple[float, Any]], width: float, name: str, c: str) -> None:
    positions, rates = [x for x, _ in shown], [r for _, r in shown]
    heights = [r.rate for r in rates]
    spread = [[r.rate - r.interval[0] for r in rates], [r.interval[1] - r.rate for r in rates]]
    axes.bar(positions, heights, width, color=c, label=name)
    if rates:
        axes.errorbar(positions, heights, spread, fmt="none", ecolor=INK, elinewidth=1.3, capsize=3)


def _curve(records: Sequence[Mapping[str, Any]], split: str) -> tuple[np.ndarray, np.ndarray]:
    """float[P] steps and losses of one split, averaged down to MAX_POINTS, finite only."""
    points = [(r["step"], r["loss"]) for r in records if r.get("split") == split and "loss" in r]
    curve = np.asarray(points, np.float64).reshape(-1, 2)
    curve = curve[np.isfinite(curve).all(axis=1)]
    if len(curve) > MAX_POINTS:
        curve = np.stack([c.mean(axis=0) for c in np.array_split(curve, MAX_POINTS)])
    return curve[:, 0], curve[:, 1]


def _log_if_positive(axes: Axes) -> None:
    values = [v for line in axes.lines for v in line.get_ydata()]
    if values and min(values) > 0 and max(values) / min(values) > 20:
        axes.set_yscale("log")
        axes.minorticks_off()


def _svg(figure: Figure, label: str, salt: str) -> str:
    """Inline SVG: text stays text, colours are CSS variables, ids differ between figures."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    view_box = re.search(r'viewBox="[^"]*"', text).group()
    opening = f'<svg class="chart" {view_box} role="img" aria-label="{html.escape(label)}">'
    text = opening + text[text.index(">") + 1 :]
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # group names repeat from figure to figure
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would style the whole page
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text

