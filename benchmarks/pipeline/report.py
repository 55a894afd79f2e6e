"""The results as tables in Markdown, and putting them into a page."""

import datetime
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lapa_jax import errors
from pipeline import contestants, dataset, plan, scenes

BEGIN, END = "<!-- data_pipeline.py: begin -->", "<!-- data_pipeline.py: end -->"
_PACKAGES = ("grain", "numpy", "simplejpeg", "array-record", "pillow", "tensorflow-datasets")
_OTHERS = {"(a)": "tf_data", "(a′)": "tf_data_plain", "(b)": "folders"}
_NONE, _TIMES = "—", "{:.2f}×"
Results = Mapping[str, plan.Done]


def page(results: Results, size: dataset.Size, command: str, tensorflow: bool) -> str:
    """All tables with what is needed to repeat them."""
    sections = {
        "Pairs of frames a second": (_speeds, _resized),
        "Memory over an epoch": (_memory,),
        "Start, resume, index": (_starts, _index),
        "Small frames in memory": (_small,),
        "Not measured": (_failures,),
    }
    parts = [_conditions(results, size, command)]
    parts += [] if tensorflow else ["TensorFlow was not installed: (a) is left out."]
    for title, makers in sections.items():
        tables = [table for make in makers if (table := make(results))]
        parts += [f"### {title}", *tables] if tables else []
    return "\n\n".join(parts) + "\n"


def write(path: Path, text: str) -> None:
    """Puts `text` between the two marks of a page.

    Raises:
        UserError: the page is not there or has no marks.
    """
    check(path)
    whole = path.read_text(encoding="utf-8")
    before, rest = whole.split(BEGIN, 1)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


def check(path: Path) -> None:
    """Raises UserError when `write` would."""
    whole = path.read_text(encoding="utf-8") if path.is_file() else ""
    if END not in whole.partition(BEGIN)[2]:
        raise errors.UserError(f"--write={path}: no page with the lines {BEGIN} and {END}; add them")


def machine() -> str:
    """Processor and number of cores."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def versions() -> str:
    """Of Python and of the packages that read."""
    packages = list(_PACKAGES)
    if importlib.util.find_spec("tensorflow"):  # of several distributions, tensorflow-cpu among them
        packages += importlib.metadata.packages_distributions()["tensorflow"][:1]
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return f"Python {platform.python_version()}, {', '.join(found)}"


def _conditions(results: Results, size: dataset.Size, command: str) -> str:
    measured = [done.result for done in results.values() if "windows" in done.result]
    busy = max((result["cores_busy_elsewhere"] for result in measured), default=0.0)
    spread = max((max(r["windows"]) / min(r["windows"]) - 1 for r in measured), default=0.0)
    batch = next(iter(results.values())).job.batch
    lines = [
        f"{machine()}; {datetime.date.today()}. {versions()}.",
        f"{size.episodes:,} episodes, {size.frames:,} frames of {scenes.SIZE} px "
        f"({size.jpeg_bytes / size.frames / 1e3:.0f} kB each), {size.record_bytes / 1e9:.2f} GB of records. "
        f"Batches of {batch} pairs.",
        f"Speeds are medians of three windows, which differ by up to {spread:.0%}; other work kept up to "
        f"{busy:.2f} cores busy.",
    ]
    return f"```\n{command}\n```\n\n" + "\n".join(lines)


def _speeds(results: Results) -> str:
    def speed(name: str, cores: int) -> float | None:
        return _value(results, f"speed/{name}/{cores}", "pairs_per_s")

    cores = max(done.job.cores for done in results.values())
    rows = []
    for name in [name for name in contestants.CONTESTANTS if not name.startswith("small")]:
        if speed(name, 1) is None and speed(name, cores) is None:
            continue
        one, row = speed(name, 1), [contestants.CONTESTANTS[name].title]
        row += [_number(one)]
        row += [_number(_divided(one, speed(other, 1)), _TIMES) for other in _OTHERS.values()]
        row += [_number(speed(name, cores))] if cores > 1 else []
        rows.append(row)
    head = ["", "on one core", *(f"to {other}" for other in _OTHERS)]
    return _table([*head, f"on {cores} cores"] if cores > 1 else head, rows)


def _resized(results: Results) -> str:
    rows, side = [], 0
    for name in ("ours", "tf_data"):
        if done := results.get(f"resized/{name}/1"):
            value, side = done.result.get("pairs_per_s"), done.job.size
            ratio = _divided(value, _value(results, "resized/tf_data/1", "pairs_per_s"))
            rows.append([contestants.CONTESTANTS[name].title, _number(value), _number(ratio, _TIMES)])
    return _table([f"frames wanted at {side} px", "on one core", "to (a)"], rows)


def _memory(results: Results) -> str:
    rows = []
    for name, done in results.items():
        if not name.startswith("epoch/"):
            continue
        shuffle = f", buffer of {done.job.buffer:,}" if done.job.contestant == "tf_data" else ""
        rows.append(
            [
                contestants.CONTESTANTS[done.job.contestant].title + shuffle,
                f"{done.job.split}, {done.job.pairs:,} pairs" + (", first tenth" if done.job.share < 1 else ""),
                _cell(done, "peak_mb"),
                _cell(done, "tenths_mb", lambda mb: f"{min(mb):,.0f} – {max(mb):,.0f}"),
                _cell(done, "max_over_min", "{:.2f}".format),
            ]
        )
    return _table(["", "dataset", "peak MB", "MB, lowest and highest tenth", "their ratio"], rows)


def _starts(results: Results) -> str:
    rows = [
        ["ours, no index yet", "first/ours/no index"],
        ["ours", "first/ours"],
        ["ours, resumed after 60 % of an epoch, exactly", "resume/ours"],
        ["(a) fills its shuffle buffer", "first/tf_data"],
        ["(a) skips 60 % of an epoch; other pairs follow than would have", "resume/tf_data"],
        ["(b) has no position to resume", "first/folders"],
    ]
    found = [
        [title, _cell(results[name], "first_batch_s", "{:.2f}".format)] for title, name in rows if name in results
    ]
    return _table(["", "seconds to the first batch"], found)


def _index(results: Results) -> str:
    rows = []
    for name, done in results.items():
        if name.startswith("index/"):
            cells = [_cell(done, key) for key in ("records_per_s", "frames_per_s", "mb_per_s")]
            more = [_cell(done, key, "{:.1f}".format) for key in ("seconds", "index_mb")]
            rows.append([name.removeprefix("index/"), *cells, *more])
    return _table(["index built on cores", "records/s", "frames/s", "MB/s", "seconds", "MB on disk"], rows)


def _small(results: Results) -> str:
    rows = []
    for name in ("small", "small_decoded"):
        done = results.get(f"speed/{name}/1")
        if done:
            cells = [_cell(done, "pairs_per_s"), _cell(done, "first_batch_s", "{:.2f}".format)]
            rows.append([contestants.CONTESTANTS[name].title, *cells])
    return _table(["", "pairs/s on one core", "seconds to the first batch"], rows)


def _failures(results: Results) -> str:
    failed = [f"- {name}: {done.result['failed']}" for name, done in results.items() if "failed" in done.result]
    return "\n".join(failed)


def _value(results: Results, name: str, key: str) -> float | None:
    return results[name].result.get(key) if name in results else None


def _divided(value: float | None, other: float | None) -> float | None:
    return value / other if value and other else None


def _number(value: float | None, form: str = "{:,.0f}") -> str:
    return _NONE if value is None else form.format(value)


def _cell(done: plan.Done, key: str, form: Callable[[Any], str] = "{:,.0f}".format) -> str:
    return form(done.result[key]) if key in done.result else _NONE


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
