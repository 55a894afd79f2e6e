"""One self-contained HTML page about a run, made to be shown to a colleague."""

import datetime
import json
import os
from pathlib import Path
from typing import Any

import lapa_jax
from lapa_jax.evaluation import figures, galleries, headline, intervals, page, pipeline, run_folder
from lapa_jax.evaluation.run_folder import RunFolder

STAGE_NAMES = {
    "laq": "Stage 1: LAQ",
    "vlm": "Stage 2: latent pretraining",
    "finetune": "Stage 3: finetuning (LAPA)",
    "scratch": "Baseline: from scratch",
}
BADGES = {"pass": "✓ met", "fail": "✗ missed", "open": "○ undecided", "missing": "–"}


def write_report(run_dir: str | os.PathLike) -> Path:
    """Writes `report.html` into a run folder and returns its path.

    The page needs no network and no script; a stage that has not run says so.

    Raises:
        UserError: the folder does not exist or holds a damaged file.
    """
    run = run_folder.read(run_dir)
    checks = headline.checks(run)
    sections = [
        ("run", "What was run", _what_was_run(run)),
        ("results", "Results", _results(run, checks)),
        ("losses", "Losses", _losses(run)),
        ("reconstructions", "Reconstructions", _reconstructions(run)),
        ("codes", "Codes", galleries.codes(run.gallery, run.summaries["laq"])),
        ("transfer", "Code transfer", galleries.transfer(run.gallery)),
        ("imagined", "Imagined video", _imagined(run)),
        ("success", "Task success", _success(run)),
        ("films", "Rollouts", _films(run)),
        ("configs", "Configurations", _configs(run)),
    ]
    footer = f"Written by lapa_jax {lapa_jax.__version__}. One file, nothing to download."
    path = run.path / "report.html"
    title, lead = "Latent action pretraining: run report", _lead(run, checks)
    path.write_text(page.document(title, lead, sections, footer), encoding="utf-8")
    return path


def _lead(run: RunFolder, checks: list[headline.Check]) -> str:
    measured = [c for c in checks if c.status != headline.MISSING]
    met = sum(c.status == headline.PASS for c in checks)
    size = f" at size {run.run['size']}" if run.run and "size" in run.run else ""
    if not measured:
        return f"A run{size} that has measured nothing yet."
    missing = len(checks) - len(measured)
    pending = f"; {missing} not measured yet" if missing else ""
    return f"A run{size}: {met} of {len(checks)} targets met{pending}."


def _what_was_run(run: RunFolder) -> str:
    body = f"<p>{page.escape(pipeline.INTRODUCTION)}</p>" + page.figure(
        pipeline.picture(), "The three stages. Only the third needs robot actions."
    )
    if run.run is None:
        return body + page.absent("Run record")
    if "command" in run.run:
        body += f'<p class="command"><code>{page.escape(str(run.run["command"]))}</code></p>'
    return body + _facts(run.run) + _stage_times(run.run.get("stages", []))


def _facts(record: dict[str, Any]) -> str:
    facts = {name: record.get(key) for name, key in (("Machine", "machine"), ("Size", "size"))}
    facts["Started"], facts["Took"] = record.get("started"), _duration(record)
    facts["Versions"] = ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())
    rows = (
        f"<dt>{page.escape(name)}</dt><dd>{page.escape(str(value))}</dd>"
        for name, value in facts.items()
        if value
    )
    return f"<dl>{''.join(rows)}</dl>"


def _duration(record: dict[str, Any]) -> str:
    if not record.get("started") or not record.get("finished"):
        return "not finished when this page was written"
    start, end = (datetime.datetime.fromisoformat(record[k]) for k in ("started", "finished"))
    return _clock((end - start).total_seconds())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _stage_times(stages: list[dict[str, Any]]) -> str:
    if not stages:
        return ""
    longest = max(stage["seconds"] for stage in stages) or 1.0
    rows = "".join(
        f"<span>{page.escape(str(stage['name']))}</span>{page.meter(stage['seconds'] / longest)}"
        f"<span>{_clock(stage['seconds'])}</span>"
        for stage in stages
    )
    return page.figure(f'<div class="time">{rows}</div>', "Wall-clock time of each stage.")


def _results(run: RunFolder, checks: list[headline.Check]) -> str:
    cards = "".join(_card(check) for check in checks)
    rows = [
        [
            page.escape(check.title),
            f"<b>{page.escape(check.value)}</b>",
            page.escape(check.target),
            page.escape(check.detail),
            _badge(check.status),
        ]
        for check in checks
    ] + _action_error(run)
    heads = ["measure", "measured", "target", "for comparison", ""]
    return f'<div class="cards">{cards}</div>' + page.figure(
        page.table(heads, rows),
        "All numbers come from episodes held out of training. Brackets are 95 % Wilson intervals.",
    )


def _card(check: headline.Check) -> str:
    title = f"<span>{page.escape(check.title)}</span>{_badge(check.status)}"
    return (
        f'<div class="card {check.status}"><div class="name">{title}</div>'
        f'<div class="value">{page.escape(check.value)}</div>'
        f'<div class="note">target: {page.escape(check.target)}</div></div>'
    )


def _badge(status: str) -> str:
    return f'<span class="badge {status}">{BADGES[status]}</span>'


def _action_error(run: RunFolder) -> list[list[str]]:
    """A row without a target: held-out action error of both finetuned policies."""
    ours, theirs = run.summaries["finetune"] or {}, run.summaries["scratch"] or {}
    if "val_mse" not in ours and "val_mse" not in theirs:
        return []
    lapa, scratch = (headline.number(s.get("val_mse"), 4) for s in (ours, theirs))
    counts = [page.escape(str(s.get("episodes", "n/a"))) for s in (ours, theirs)]
    detail = f"from scratch: {scratch}; labelled episodes: {counts[0]} and {counts[1]}"
    return [["Action error (MSE)", f"<b>{lapa}</b>", "for information", detail, ""]]


def _losses(run: RunFolder) -> str:
    lines = run.metrics
    policies = {"LAPA": lines["finetune"], "scratch": lines["scratch"]}
    groups = [
        (STAGE_NAMES["laq"], {"LAQ": lines["laq"]}),
        (STAGE_NAMES["vlm"], {"VLM": lines["vlm"]}),
        ("Stage 3: LAPA and from scratch", {k: v for k, v in policies.items() if v}),
    ]
    charts = "".join(
        f'<div class="panel">{figures.loss_chart(title, curves)}</div>'
        if any(curves.values())
        else page.absent(title)
        for title, curves in groups
    )
    caption = "Loss against training step. Validation frames come from held-out episodes."
    return page.figure(f'<div class="charts">{charts}</div>', caption, panel=False)


def _reconstructions(run: RunFolder) -> str:
    summary = run.summaries["laq"] or {}
    return galleries.reconstructions(run.gallery, summary.get("gap_seconds"))


def _imagined(run: RunFolder) -> str:
    """Latent rollouts: strips of frames, and how far ahead they are closer to the truth than the first frame."""
    strips = run.path / "rollouts" / "strips.png"
    if run.rollouts is None or not strips.is_file():
        return page.absent("Latent rollouts")
    names = {"imagined": "imagined", "true codes": "true codes decoded", "first_frame": "first frame kept"}
    psnr = run.rollouts["psnr"]
    rows = [[page.escape(name), *(f"{value:.1f}" for value in psnr[key])] for key, name in names.items()]
    heads = ["PSNR, dB, at step", *(str(i + 1) for i in range(len(psnr["imagined"])))]
    caption = (
        "Held-out videos. From the first frame and the instruction the model picks a latent action, the LAQ paints "
        "the frame it leads to, and so on: no simulator is involved. “True codes” are those that the LAQ gives to "
        "the video, so they show what the painter alone can do."
    )
    picture = page.data_image(strips.read_bytes(), "png", "strips of imagined video")
    return page.figure(picture, caption) + f'<div class="panel">{page.table(heads, rows)}</div>'


def _success(run: RunFolder) -> str:
    if not run.results or not run.results.get("policies"):
        return page.absent("Closed-loop evaluation")
    rows = intervals.rate_rows(run.results)
    families = [family.replace("_", " ") for family in intervals.family_names(run.results)]
    cells = [
        [f"<b>{page.escape(name)}</b>", *(_rate_cell(rate) for rate in rates)]
        for name, rates in rows.items()
    ]
    split = run.results.get("split", "heldout")
    caption = (
        f"Share of episodes solved in closed loop, split {split!r}, by task family. Whiskers and "
        "brackets are 95 % Wilson intervals; two that overlap are not told apart by this run alone."
    )
    chart = page.figure(figures.success_chart(run.results), caption)
    return chart + f'<div class="panel">{page.table(["policy", *families, "all"], cells)}</div>'


def _rate_cell(rate: intervals.Rate | None) -> str:
    if rate is None:
        return intervals.NO_TRIALS
    return f'{rate}<br><span class="count">{rate.successes} of {rate.trials}</span>'


def _films(run: RunFolder) -> str:
    gifs = (run.results or {}).get("gifs") or {}
    films = [_film(run, kind, gif) for kind, gif in gifs.items() if gif]
    if not films:
        return page.absent("Filmed rollouts")
    return f'<div class="films">{"".join(films)}</div>'


def _film(run: RunFolder, kind: str, gif: dict[str, Any]) -> str:
    path = run.path / "evaluation" / Path(gif["file"]).name
    if not path.is_file():
        return page.absent(f"Film {gif['file']}")
    caption = f"{kind.capitalize()}: “{gif.get('instruction', '')}” ({gif.get('policy', 'lapa')})"
    return page.figure(page.data_image(path.read_bytes(), "gif", caption), caption, panel=False)


def _configs(run: RunFolder) -> str:
    parts = []
    for stage, name in STAGE_NAMES.items():
        config = run.configs[stage]
        if config is None:
            parts.append(page.absent(name))
            continue
        text = page.escape(json.dumps(config, indent=2, ensure_ascii=False))
        parts.append(f"<details><summary>{page.escape(name)}</summary><pre>{text}</pre></details>")
    return "<p>The resolved configuration of each stage, as it was used.</p>" + "".join(parts)
