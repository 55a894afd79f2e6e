"""The card of a dataset as one HTML page that can be mailed and opened without a network."""

import html
from collections.abc import Iterable, Sequence

import numpy as np

from lapa_jax.data.card import contents as card_lib
from lapa_jax.data.card import figures as card_figures
from lapa_jax.data.card import lint, lint_arrays, samples
from lapa_jax.data.card import style as card_style
from lapa_jax.data.card import text as card_text

_EPISODES = 12  # of which frames are shown
_FRAMES = 8  # of each camera
_PAIRS = 9
_TEXTS = 15
_BINS = 30

escape = html.escape


def render(card: card_lib.Card) -> str:
    """The whole page; decodes about a hundred frames."""
    sections = [("Findings", _findings(card)), ("Episodes", _episodes(card))]
    sections += [("Cameras", _cameras(card)), ("Pairs", _pairs(card))]
    sections += [(table.name.capitalize(), _array(table)) for table in card.tables]
    sections += [("Instructions", _instructions(card)), ("Contents", _contents(card))]
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name, _ in sections)
    bodies = "".join(f'<section id="{name.lower()}"><h2>{name}</h2>{body}</section>' for name, body in sections)
    title = escape(card.episodes.name)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{card_style.SHEET}</style></head><body>"
        f'<header><h1>{title}</h1><p class="lead">{escape(_lead(card))}</p>{_facts(card)}</header>'
        f"<nav><div>{links}</div></nav><main>{bodies}</main>"
        "<footer>Written by <code>python -m lapa_jax.data.inspect</code></footer></body></html>\n"
    )


def _lead(card: card_lib.Card) -> str:
    rest = f", without {_counted(card.held_out, 'episode')} held out" if card.held_out else ""
    return f"Split {card.split!r}{rest}. {card.form}."


def _facts(card: card_lib.Card) -> str:
    lengths = card.episodes.lengths
    total, rate = int(lengths.sum()), card.episodes.rate
    levels = ", ".join(_counted(card.count(level), level) for level in lint.LEVELS if card.count(level))
    facts = [
        (f"{len(lengths):,}", "episodes"),
        (f"{total:,}", "steps" if rate is None else f"steps, {_duration(total / rate)}"),
        ("?" if rate is None else f"{rate:g}", "steps a second"),
        (str(len(card.cameras)), _plural(len(card.cameras), "camera")),
        (f"{len(card.instructions):,}", _plural(len(card.instructions), "instruction")),
        (str(len(card.findings)), levels or "findings"),
    ]
    cells = "".join(f'<div class="fact"><b>{value}</b><span>{what}</span></div>' for value, what in facts)
    return f'<div class="facts">{cells}</div>'


def _findings(card: card_lib.Card) -> str:
    if not card.findings:
        return "<p>Nothing to remark.</p>"
    badges = (f'<span class="level {found.level}">{found.level}</span>' for found in card.findings)
    rows = zip(badges, card.findings, strict=True)
    return f'<ul class="findings">{"".join(f"<li>{b}<span>{escape(f.message)}</span></li>" for b, f in rows)}</ul>'


def _episodes(card: card_lib.Card) -> str:
    episodes, sheets = card.episodes, []
    for episode in samples.evenly(np.flatnonzero(episodes.lengths), _EPISODES).tolist():
        length = int(episodes.lengths[episode])
        at = [(episode, step) for step in sorted({0, length // 2, length - 1})]
        text = escape(episodes.instruction(episode)) or "no instruction"
        caption = f"<b>{text}</b><br>episode {episode}, {_counted(length, 'step')}"
        sheets.append(card_figures.strip(episodes, at, caption, 3))
    shown = f"{len(sheets)} of {_counted(len(episodes), 'episode')}"
    lead = f"First, middle and last frame of {shown}, by {episodes.camera}."
    return f"<p>{escape(lead)}</p>{_sheets(sheets)}{_lengths(episodes.lengths)}"


def _lengths(lengths: np.ndarray) -> str:
    """A histogram, where there is something to tell."""
    low, high = int(lengths.min()), int(lengths.max())
    if low == high:
        return ""
    counts, edges = np.histogram(lengths, min(_BINS, high - low + 1), (low, high))
    name = "Steps of an episode"
    return f'<div class="charts apart">{card_figures.chart(name, card_figures.bars(counts, edges, name))}</div>'


def _cameras(card: card_lib.Card) -> str:
    at, sheets = samples.places(card.episodes.lengths, _FRAMES), []
    for name, camera in card.cameras.items():
        others = f", also {', '.join(camera.names)}" if camera.names else ""
        empty = f"; {camera.empty} of {camera.frames} sampled frames are empty" if camera.empty else ""
        caption = f"<b>{escape(name)}</b> {escape(', '.join(camera.sizes) + others + empty)}"
        sheets.append(card_figures.strip(card.episodes, at, caption, _FRAMES, name))
    return f"<p>The same steps as each camera sees them.</p>{_sheets(sheets, 'sheets wide')}"


def _pairs(card: card_lib.Card) -> str:
    chosen = samples.pairs(card.episodes, card.steps, _PAIRS)
    if not chosen:
        return f"<p>No episode is long enough for two frames {escape(card.gap)} apart.</p>"
    sheets = []
    for at in chosen:
        shares = [f", {lint.percent(share)} changed" for share in samples.changes(card.episodes, [at]).tolist()]
        caption = f"episode {at[0]}, steps {at[1]} and {at[2]}{''.join(shares)}"
        sheets.append(card_figures.pair(card.episodes, at, caption))
    lead = f"Two frames {card.gap} apart, their difference, and the share of pixels that changed."
    still = f"{card.static} of {_counted(len(card.changes), 'sampled pair')} are static."
    return f"<p>{escape(lead)} {still}</p>{_sheets(sheets)}"


def _array(table: lint_arrays.Array) -> str:
    constant = table.constant
    charts = "".join(card_figures.histogram(table, d) for d in np.flatnonzero(~constant).tolist())
    lead = (
        f"{table.stats.count:,} steps; q01 to q99 is shaded, heights are roots of counts so that rare values show."
    )
    if constant.any():
        lead += f" Near-constant and not drawn: {table.listed(np.flatnonzero(constant))}."
    values = [getattr(table.stats, name) for name in card_lib.FIELDS]
    rows = [[escape(table.label(d)), *(card_text.number(v[d]) for v in values)] for d in range(len(table.table))]
    numbers = _table(["dimension", *card_lib.FIELDS], rows, 1)
    folded = f"<details><summary>All numbers</summary>{numbers}</details>"
    return f'<p>{escape(lead)}</p><div class="charts">{charts}</div>{folded}'


def _instructions(card: card_lib.Card) -> str:
    found = card.instructions
    lead = f"{_counted(len(found), 'distinct instruction')}; {_counted(card.missing, 'episode')} without one."
    most = max(found.values(), default=1)
    rows = "".join(
        f'<span class="count">{count:,}</span><div class="text"><i style="width:{100 * count / most:.1f}%"></i>'
        f"<span>{escape(text)}</span></div>"
        for text, count in found.most_common(_TEXTS)
    )
    more = f"<p>and {len(found) - _TEXTS:,} more</p>" if len(found) > _TEXTS else ""
    return f'<p>{lead}</p><div class="texts">{rows}</div>{more}'


def _contents(card: card_lib.Card) -> str:
    about = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in card_text.about(card).items())
    splits = [[escape(cell) for cell in row] for row in card_text.splits(card)]
    features = [[f"<code>{escape(name)}</code>", escape(text)] for name, text in card_text.columns(card).items()]
    stored = _table(["stored split", "episodes", "steps", "hours"], splits, 1)
    folded = f"<details><summary>Features</summary>{_table(['feature', 'holds'], features)}</details>"
    return f"<dl>{about}</dl>{stored}{folded}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 99) -> str:
    """Cells are HTML; columns from `numbers_from` on are set to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = (' class="number"' if i >= numbers_from else "" for i in range(len(cells)))
        return f"<tr>{''.join(f'<{tag}{kind}>{c}</{tag}>' for kind, c in zip(kinds, cells, strict=True))}</tr>"

    lines = [line("th", headings), *(line("td", row) for row in rows)]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _sheets(sheets: Sequence[str], kind: str = "sheets") -> str:
    return f'<div class="{kind}">{"".join(sheets)}</div>'


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {_plural(count, noun)}"


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
