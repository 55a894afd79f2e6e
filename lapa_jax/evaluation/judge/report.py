"""The page about one LAQ: what passed, and the numbers and pictures behind it."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lapa_jax
from lapa_jax.evaluation import page
from lapa_jax.evaluation.judge import outcome, sections, verdicts
from lapa_jax.evaluation.judge.pictures import Pictures
from lapa_jax.evaluation.judge.verdicts import FAIL, NOT_MEASURED, PASS, Verdict

BADGES = {
    PASS: '<span class="badge pass">✓ PASS</span>',
    FAIL: '<span class="badge fail">✗ FAIL</span>',
    NOT_MEASURED: '<span class="badge missing">NOT MEASURED</span>',
}


def write(
    workdir: pathlib.Path,
    about: Mapping[str, Any],
    results: Mapping[str, Any],
    found: Sequence[Verdict],
    pictures: Mapping[str, Pictures],
) -> pathlib.Path:
    """Writes `judge.json` and `judge.html`, one file each, and returns the path of the page."""
    whole = {"about": about, **results, "lines": [v.to_json() for v in found], "verdict": verdicts.count(found)}
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(outcome.plain(whole), indent=1, allow_nan=False)
    (workdir / "judge.json").write_text(text + "\n", encoding="utf-8")
    path = workdir / "judge.html"
    path.write_text(html(about, results, found, pictures), encoding="utf-8")
    return path


def html(
    about: Mapping[str, Any], results: Mapping[str, Any], found: Sequence[Verdict], pictures: Mapping[str, Pictures]
) -> str:
    """The page; the arguments are those of `write`."""
    datasets = results["datasets"]

    def each(section: Callable[[Mapping[str, Any], Pictures], str]) -> str:
        """The section of every dataset, under its name where there are several."""
        parts = []
        for name, measured in datasets.items():
            heading = f"<h3>{page.escape(name)}</h3>" if len(datasets) > 1 else ""
            parts.append(heading + section(measured, pictures[name]))
        return "".join(parts)

    body = [
        ("verdict", "Verdict", verdict(about, datasets, found)),
        ("codes", "Codes in use", each(sections.codes_in_use)),
        ("rebuilt", "Reconstruction", each(sections.reconstruction)),
        ("probes", "Motion in the codes", each(sections.probes)),
        ("control", "Control", each(sections.control)),
        ("swap", "Action swap", each(sections.swap)),
        ("laws", "Reversal, composition", each(sections.laws)),
        ("gallery", "What each code does", each(sections.gallery)),
    ]
    if len(datasets) > 1:
        body.insert(-1, ("across", "Across datasets", sections.across(results["across"])))
    totals = verdicts.count(found)
    lead = f"{totals[PASS]} lines passed, {totals[FAIL]} failed, {totals[NOT_MEASURED]} not measured."
    written = f"Written by lapa_jax {lapa_jax.__version__}."
    footer = f"{written} docs/judging.md defines every line. One file, nothing to download."
    return page.document("Is this LAQ good?", lead, body, footer)


def verdict(about: Mapping[str, Any], datasets: Mapping[str, Any], found: Sequence[Verdict]) -> str:
    """What was judged, and every line with its number, threshold and badge."""
    facts = "".join(
        f"<dt>{page.escape(str(name))}</dt><dd>{page.escape(str(value))}</dd>"
        for name, value in about["facts"].items()
    )
    counts = "".join(
        f"<dt>{page.escape(name)}</dt><dd>{m['about']['pairs']} pairs of {m['about']['episodes']} "
        f"episodes, {m['about']['gap']} steps apart; {_moved(m)}</dd>"
        for name, m in datasets.items()
    )
    several = len(datasets) > 1
    heads = [*(["dataset"] if several else []), "line", "measured", "threshold", "", "in words"]
    rows = [[*([page.escape(v.dataset or "all")] if several else []), *_row(v)] for v in found]
    caption = (
        "Probes are scored on episodes that they were not fitted to. Small numbers are 95 % intervals over "
        "episodes. Thresholds are those of the config."
    )
    return f"<dl>{facts}{counts}</dl>" + page.figure(page.table(heads, rows), caption)


def _row(v: Verdict) -> list[str]:
    value = "–" if v.value is None else f"<b>{v.value:.2f}</b> {page.escape(v.line.unit)}"
    if v.interval is not None:
        value += f'<br><span class="count">{v.interval[0]:.2f} to {v.interval[1]:.2f}</span>'
    words = v.reason or (v.line.why if v.status == FAIL else "")
    if v.close:
        words = f"{words} (other pairs may decide otherwise)".strip()
    threshold = f"{'at most' if v.line.at_most else 'at least'} {v.threshold:g}"
    return [page.escape(v.line.title), value, threshold, BADGES[v.status], page.escape(words)]


def _moved(measured: Mapping[str, Any]) -> str:
    target = measured["probes"].get("target")
    if target is None:
        return "no motion is known: " + page.escape(measured["probes"][outcome.KEY])
    names = ", ".join(page.escape(str(c)) for c in target["columns"])
    return f"motion: {page.escape(target['name'])} ({names})"
