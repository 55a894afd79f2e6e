"""Pictures of a dataset card as HTML: contact sheets of frames and pairs, and histograms as SVG."""

import base64
import html
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.card import lint, lint_arrays
from lapa_jax.data.video import pictures

_WIDTH = 224  # pixels to which wider frames are scaled
_QUALITY = 85
_TINY = 128  # pixels below which a frame is enlarged without smoothing
_FULL = 96  # grey levels of difference that are the brightest
_BINS = 40
_CHART = (240, 64)  # units of an SVG's view box
# From black over purple and orange to pale yellow, in even steps of lightness.
_HEAT = np.array([[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21],
                  [250, 193, 39], [252, 255, 164]], np.float64)  # fmt: skip


def image(frame: np.ndarray, alt: str) -> str:
    """uint8[H, W, 3] as an <img> that carries its own bytes."""
    if frame.shape[1] > _WIDTH:
        height = max(round(frame.shape[0] * _WIDTH / frame.shape[1]), 1)
        frame = np.asarray(Image.fromarray(frame).resize((_WIDTH, height), Image.Resampling.BOX))
    encoded = base64.b64encode(pictures.jpeg(frame, _QUALITY)).decode("ascii")
    kind = ' class="tiny"' if frame.shape[1] < _TINY else ""
    return f'<img{kind} loading="lazy" alt="{html.escape(alt)}" src="data:image/jpeg;base64,{encoded}">'


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """|after - before| of uint8[H, W, 3], mean of the colours, as a heat map; brightest from 96 levels on."""
    heat = np.abs(after.astype(np.float64) - before).mean(axis=-1) / _FULL * (len(_HEAT) - 1)
    at = np.arange(len(_HEAT))
    return np.stack([np.interp(heat, at, colour) for colour in _HEAT.T], axis=-1).round().astype(np.uint8)


def strip(
    episodes: episodes_lib.Episodes,
    at: Sequence[tuple[int, int]],
    caption: str,
    columns: int,
    camera: str | None = None,
) -> str:
    """Frames at some (episode, step) side by side in `columns`; `caption` is HTML."""
    return _sheet([_frame(episodes, episode, step, camera) for episode, step in at], caption, columns)


def pair(episodes: episodes_lib.Episodes, at: tuple[int, int, int], caption: str) -> str:
    """The frames at (episode, step, later step) and their difference."""
    episode, step, later = at
    try:
        before, after = episodes.frame(episode, step), episodes.frame(episode, later)
    except errors.UserError as error:
        return _sheet([_broken(str(error))], caption)
    cells = [image(before, f"step {step}"), image(after, f"step {later}")]
    if before.shape == after.shape:
        cells.append(image(difference(before, after), "difference"))
    return _sheet(cells, caption)


def _frame(episodes: episodes_lib.Episodes, episode: int, step: int, camera: str | None) -> str:
    try:
        return image(episodes.frame(episode, step, camera=camera), f"episode {episode}, step {step}")
    except errors.UserError as error:
        return _broken(str(error))


def _broken(why: str) -> str:
    return f'<div class="broken" title="{html.escape(why)}">not decodable</div>'


def _sheet(cells: Sequence[str], caption: str, columns: int = 3) -> str:
    frames = f'<div class="strip" style="grid-template-columns:repeat({columns},1fr)">{"".join(cells)}</div>'
    return f"<figure>{frames}<figcaption>{caption}</figcaption></figure>"


def histogram(table: lint_arrays.Array, d: int) -> str:
    """Finite values of one dimension, q01..q99 shaded; outliers are counted and not drawn."""
    stats, values = table.stats, table.table[d]
    q01, q99 = float(stats.q01[d]), float(stats.q99[d])
    reach = lint.FAR * (q99 - q01)
    inside = values[(values >= q01 - reach) & (values <= q99 + reach)]
    counts, edges = np.histogram(inside, _BINS)
    drawn = bars(counts, edges, f"{table.name} {table.label(d)}", (q01, q99))
    shown = {"mean": stats.mean[d], "std": stats.std[d], "q01": q01, "q99": q99}
    numbers = "".join(f"<span>{name} <b>{value:.3g}</b></span>" for name, value in shown.items())
    if beyond := int(np.isfinite(values).sum()) - len(inside):
        span = f"{stats.min[d]:.3g}..{stats.max[d]:.3g}"
        numbers += f'<span class="beyond">outliers: {beyond}, as far as {span}</span>'
    return chart(table.label(d), f'{drawn}<div class="numbers">{numbers}</div>')


def chart(title: str, body: str) -> str:
    return f'<div class="chart"><h4>{html.escape(title)}</h4>{body}</div>'


def bars(counts: np.ndarray, edges: np.ndarray, title: str, shaded: tuple[float, float] | None = None) -> str:
    """A histogram as SVG with its axis: heights are roots of counts, so that rare values show.

    Args:
        counts: int64[B] between edges float64[B + 1].
        shaded: values between which the ground is shaded.
    """
    (width, height), low, high = _CHART, float(edges[0]), float(edges[-1])
    tops = np.sqrt(counts / max(int(counts.max(initial=0)), 1)) * (height - 2)
    step, total, body = width / len(counts), max(int(counts.sum()), 1), []
    if shaded:
        left, right = (width * (value - low) / (high - low) for value in shaded)
        body.append(f'<rect class="span" x="{left:.1f}" y="0" width="{right - left:.1f}" height="{height}"/>')
    for i in np.flatnonzero(counts):
        words = f"{edges[i]:.4g} to {edges[i + 1]:.4g}: {counts[i]}, {lint.percent(counts[i] / total)}"
        place = f'x="{i * step + 0.4:.1f}" y="{height - tops[i]:.1f}"'
        size = f'width="{step - 0.8:.1f}" height="{tops[i]:.1f}"'
        body.append(f'<rect class="bar" {place} {size}><title>{words}</title></rect>')
    view = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    label = html.escape(f"histogram of {title}")
    axis = f'<div class="axis"><span>{low:.3g}</span><span>{high:.3g}</span></div>'
    return f'<svg {view} role="img" aria-label="{label}">{"".join(body)}</svg>{axis}'
