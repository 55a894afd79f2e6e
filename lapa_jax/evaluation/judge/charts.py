"""Charts of the report as inline SVG and HTML in the page's colours."""

from collections.abc import Sequence

import numpy as np

from lapa_jax.evaluation import page

_LEFT, _WIDTH, _ROW = 230, 800, 26
_TEXT = 'font-family="var(--sans)" font-size="13" fill="var(--ink)"'
_SMALL = 'font-family="var(--sans)" font-size="11.5" fill="var(--muted)"'
Row = tuple[str, float | None, Sequence[float] | None, float | None]


def dots(rows: Sequence[Row], low: float, high: float, label: str) -> str:
    """One row a value: a dot with its 95 % interval, and a ring for a second value, on a common axis.

    Args:
        rows: (name, value, [low, high] or None, second value or None); what is outside the axis sits at its end.
        low, high: ends of the axis.
    """

    def x(value: float) -> float:
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * (_WIDTH - _LEFT - 70)

    height = _ROW * len(rows) + 24
    ticks = [t for t in np.round(np.linspace(-1, 1, 9), 2) if low <= t <= high]
    parts = [
        f'<path d="M{x(t):.1f} 4V{height - 20}" stroke="var(--line)"/>'
        f'<text x="{x(t):.1f}" y="{height - 6}" text-anchor="middle" {_SMALL}>{t:g}</text>'
        for t in ticks
    ]
    for i, (name, value, spread, second) in enumerate(rows):
        y = _ROW * i + 17
        parts.append(f'<text x="0" y="{y + 4}" {_TEXT}>{page.escape(name)}</text>')
        if spread is not None:
            ends = f"M{x(spread[0]):.1f} {y}H{x(spread[1]):.1f}"
            parts.append(f'<path d="{ends}" stroke="var(--series0)" stroke-width="5" opacity=".3"/>')
        if second is not None:
            parts.append(
                f'<circle cx="{x(second):.1f}" cy="{y}" r="5" fill="none" stroke="var(--series1)" '
                f'stroke-width="2"/>'
            )
        if value is not None:
            parts.append(f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="var(--series0)"/>')
        shown = "–" if value is None else f"{value:.2f}"
        parts.append(f'<text x="{_WIDTH}" y="{y + 4}" text-anchor="end" {_TEXT}>{shown}</text>')
    return _svg(_WIDTH, height, parts, label)


def usage(shares: np.ndarray, label: str, by_position: bool = True) -> str:
    """Share of each code, float[L, K], as bars: one row a position with a line at an even share, or one for all."""
    count, height = shares.shape[1], 74
    top = max(float(shares.max()), 2 / count)
    step = (_WIDTH - 70) / count
    parts = []
    for i, row in enumerate(shares):
        base = height * (i + 1) - 16
        even = base - 50 / count / top
        for code, share in enumerate(row):
            tall = 50 * float(share) / top
            x = 70 + code * step
            parts.append(
                f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{max(step - min(2, step / 5), 0.5):.2f}" '
                f'height="{tall:.1f}" fill="var(--series0)"/>'
            )
            if count <= 32:
                parts.append(
                    f'<text x="{x + step / 2:.1f}" y="{base + 12}" text-anchor="middle" {_SMALL}>{code}</text>'
                )
        if by_position:
            parts.append(f'<text x="0" y="{base - 18}" {_SMALL}>position {i}</text>')
            parts.append(f'<path d="M70 {even:.1f}H{_WIDTH}" stroke="var(--muted)" stroke-dasharray="3 3"/>')
    return _svg(_WIDTH, height * len(shares), parts, label)


def matrix(names: Sequence[str], values: np.ndarray, corner: str) -> str:
    """A table of float[N, N] in [0, 1], darker for more."""
    rows = [
        [f"<b>{page.escape(name)}</b>", *(_tinted(float(value)) for value in row)]
        for name, row in zip(names, values, strict=True)
    ]
    return page.table([corner, *names], rows)


def _tinted(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    strength = 100 * min(max(value, 0.0), 1.0)
    colour = f"color-mix(in srgb,var(--series0) {strength:.0f}%,transparent)"
    return f'<span style="border-left:14px solid {colour};padding-left:8px">{value:.2f}</span>'


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    style = "width:100%;min-width:560px;height:auto;display:block"
    return (
        f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" aria-label="{page.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
