"""The card of a dataset as text for a terminal."""

import textwrap
from collections.abc import Sequence

import numpy as np

from lapa_jax.data.card import contents as card_lib
from lapa_jax.data.card import lint, lint_arrays

_COMMON = 5  # instructions that are listed
_WIDTH = 110


def render(card: card_lib.Card) -> str:
    """Blocks of aligned lines; only findings are as long as they must be."""
    stored = _aligned(["split", "episodes", "steps", "hours"], splits(card))
    blocks = [_about(card), stored, _cameras(card), _columns(card)]
    blocks += [_statistics(table) for table in card.tables]
    return "\n\n".join([*blocks, _instructions(card), _findings(card)])


def number(value: float | None) -> str:
    """Four digits; "?" for what is not known."""
    return "?" if value is None or not np.isfinite(value) else f"{value:.4g}"


def about(card: card_lib.Card) -> dict[str, str]:
    """What is worth a line of its own, with its name."""
    lengths, entry = card.episodes.lengths, card.entry
    total = int(lengths.sum())
    used = f"{card.split}: {len(lengths)} episodes, {total} steps, {number(card.hours(total))} hours"
    held_out = f" (held out of the stored split: {card.held_out} episodes)" if card.held_out else ""
    trimmed = f"the first {entry.trim[0]} and last {entry.trim[1]} steps of each episode" if any(entry.trim) else ""
    rate = "not known" if card.episodes.rate is None else f"{card.episodes.rate:g} steps a second"
    rows = {
        "folder": card.folder,
        "format": card.form,
        "entry": f"{entry.name}, {card.origin}",
        "in use": used + held_out,
        "trimmed": trimmed,
        "an episode": f"{lengths.min()} to {lengths.max()} steps, median {np.median(lengths):g}",
        "rate": rate,
        "pairs": f"{card.gap} apart; {card.static} of {len(card.changes)} sampled ones are static",
        "idle": f"{lint.percent(idle)} of the steps" if (idle := _idle(card)) is not None else "",
        "gripper": entry.gripper,
        "note": entry.note,
    }
    return {name: text for name, text in rows.items() if text}


def splits(card: card_lib.Card) -> list[list[str]]:
    """Name, episodes, steps and hours of each stored split."""
    return [
        [name, str(s.episodes), "?" if s.steps is None else str(s.steps), number(card.hours(s.steps))]
        for name, s in card.splits.items()
    ]


def columns(card: card_lib.Card) -> dict[str, str]:
    """The standard arrays, then the features as stored."""
    parts = {"action": card.entry.action, "proprio": card.entry.proprio}
    named = {}
    for table in card.tables:
        made = (f"{p.key}{_slice(p.columns)}{f' by {p.op}' if p.op != 'keep' else ''}" for p in parts[table.name])
        named[f"{table.name} (standard)"] = f"float32[{len(table.table)}] a step: {', '.join(made)}"
    return {**named, **card.columns}


def _idle(card: card_lib.Card) -> float | None:
    """Share of the steps in which nothing but the gripper moves; None without actions."""
    still = [lint_arrays.idle(table) for table in card.tables if table.name == "action"]
    return float(still[0].mean()) if still and still[0] is not None else None


def _slice(bounds: tuple[int | None, int | None] | None) -> str:
    return "" if bounds is None else "[{}:{}]".format(*("" if bound is None else bound for bound in bounds))


def _about(card: card_lib.Card) -> str:
    lines = [card.episodes.name]
    for name, text in about(card).items():
        indents = {"initial_indent": f"  {name:<12}", "subsequent_indent": " " * 14}
        lines += textwrap.wrap(text, _WIDTH, **indents, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _cameras(card: card_lib.Card) -> str:
    rows = [
        [name, ", ".join(c.sizes) or "?", f"{c.empty} of {c.frames}", ", ".join(c.names)]
        for name, c in card.cameras.items()
    ]
    return _aligned(["camera", "size", "empty", "other names"], rows, left=(0, 1, 3))


def _columns(card: card_lib.Card) -> str:
    return _aligned(["feature", ""], [list(row) for row in columns(card).items()], left=(0, 1))


def _statistics(table: lint_arrays.Array) -> str:
    values = [getattr(table.stats, name) for name in card_lib.FIELDS]
    rows = [[table.label(d), *(number(value[d]) for value in values)] for d in range(len(table.table))]
    return _aligned([f"{table.name}, {table.stats.count} steps", *card_lib.FIELDS], rows)


def _instructions(card: card_lib.Card) -> str:
    found = card.instructions
    lines = [f"instructions: {len(found)} distinct, missing in {card.missing} of {len(card.episodes)} episodes"]
    lines += [f"{count:>8}  {textwrap.shorten(text, _WIDTH)}" for text, count in found.most_common(_COMMON)]
    return "\n".join([*lines, f"{'':>8}  and {len(found) - _COMMON} more"][: len(lines) + (len(found) > _COMMON)])


def _findings(card: card_lib.Card) -> str:
    counts = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level in lint.LEVELS for n in [card.count(level)])
    lines = [f"  {found.level:<8} {found.key:<14} {found.message}" for found in card.findings]
    return "\n".join([f"findings: {counts}", *lines])


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], left: tuple[int, ...] = (0,)) -> str:
    """Columns as wide as their widest cell; numbers to the right."""
    table = [headings, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    cells = (
        [cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in table
    )
    return "\n".join("  ".join(row).rstrip() for row in cells)
