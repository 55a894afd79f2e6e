"""Building the sidecar index of an RLDS split, once.

One pass over the shards, in parallel. The index's folder is named by a hash of the shards' names, sizes, times
of change and sampled contents: a changed shard is another index, never a stale match. Parts, one a shard, are
kept while building, so that a killed build continues.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import tqdm

from lapa_jax import errors
from lapa_jax.data.stored import example, records, schema, storage
from lapa_jax.data.stored.index import EPISODE, FRAME, Index, checksum, file_name

_VERSION = 2
_SMALL = 1 << 30  # bytes that are not worth starting processes for: one indexes as many a second
_SHOWN = 64 << 20  # bytes that are worth a progress bar


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to index.

    Attributes:
        name: of the dataset, for messages and the folder's name.
        paths: the shards, in order.
        file_format: "tfrecord" or "array_record".
        columns: of `schema.columns`.
        on_damage: "fail" stops at a damaged record; "skip" leaves it out and says so at each opening.
        expected: records that each shard should have; None where that is not known.
    """

    name: str
    paths: tuple[str, ...]
    file_format: str
    columns: tuple[schema.Column, ...]
    on_damage: str = "fail"
    expected: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.on_damage not in ("fail", "skip"):
            raise errors.UserError(f"on_damage {self.on_damage!r}: choose 'fail' or 'skip'")


def open_index(plan: Plan, cache: pathlib.Path, workers: int | None = None, progress: bool = True) -> Index:
    """The index of the shards of `plan`, built first where there is none.

    Args:
        cache: folder in which indices are kept.
        workers: processes; None is one a core.

    Raises:
        UserError: a shard is missing, damaged (with on_damage "fail"), or not what the features say.
    """
    identities = storage.identities(plan.paths)
    about = {
        "version": _VERSION,
        "format": plan.file_format,
        "on_damage": plan.on_damage,
        "expected": plan.expected,
        "columns": [dataclasses.asdict(column) for column in plan.columns],
    }
    folder = cache / f"{plan.name}-{storage.digest([about, identities])}"
    if not _is_ready(folder):
        try:
            _build(plan, about, identities, folder, workers, progress)
        except FileNotFoundError:
            if not _is_ready(folder):  # another process that built the same one took the parts away
                raise
    index = Index(str(folder), plan.paths)
    if not len(index):
        raise errors.UserError(f"{plan.name} has no record that can be read; {_first(index)}")
    for damage in index.about["damaged"]:
        logging.warning("%s: left out: %s", plan.name, damage)
    return index


def _first(index: Index) -> str:
    return f"the first trouble: {index.about['damaged'][0]}" if index.about["damaged"] else "it is empty"


def _is_ready(folder: pathlib.Path) -> bool:
    """Whether the index is there, and whole as far as names and sizes tell; a broken one is removed."""
    if not folder.exists():
        return False
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        sizes = {name: int(found.split("-")[0]) for name, found in about["files"].items()}
        if all((folder / name).stat().st_size == size for name, size in sizes.items()):
            return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    logging.warning("the index in %s is damaged; it is built anew", folder)
    shutil.rmtree(folder)
    return False


def _build(
    plan: Plan,
    about: Mapping[str, Any],
    identities: Sequence[Any],
    folder: pathlib.Path,
    workers: int | None,
    progress: bool,
) -> None:
    parts = folder.parent / "parts"
    storage.make_folder(parts)
    paths = [parts / f"{storage.digest([about | {'expected': None}, one])}.npz" for one in identities]
    _build_parts(plan, paths, workers, progress)
    with storage.NewFolder(folder) as partial:
        _merge(plan, about, identities, paths, partial)
    for path in paths:
        path.unlink(missing_ok=True)


def _build_parts(plan: Plan, parts: Sequence[pathlib.Path], workers: int | None, progress: bool) -> None:
    sizes = [storage.size_of(path) for path in plan.paths]
    todo = [i for i, part in enumerate(parts) if not part.exists()]
    expected = plan.expected or (None,) * len(parts)
    jobs = [(plan, i, str(parts[i]), expected[i]) for i in todo]
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    with tqdm.tqdm(
        total=sum(sizes),
        initial=sum(sizes) - sum(sizes[i] for i in todo),
        unit="B",
        unit_scale=True,
        desc=f"index {plan.name}",
        disable=not progress or sum(sizes) < _SHOWN,
    ) as bar:
        if workers <= 1 or sum(sizes[i] for i in todo) < _SMALL:
            for job in jobs:
                _build_part(*job)
                bar.update(sizes[job[1]])
            return
        context = multiprocessing.get_context("spawn")  # jax and its threads do not survive a fork
        with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
            futures = {pool.submit(_build_part, *job): job[1] for job in jobs}
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
                    bar.update(sizes[futures[future]])
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _build_part(plan: Plan, shard: int, part: str, expected: int | None) -> None:
    """Index one shard into one .npz file."""
    collected = _Collected(plan, plan.paths[shard])
    collected.scan(expected)
    partial = f"{storage.partial_name(pathlib.Path(part))}.npz"
    np.savez(partial, **collected.columns())
    os.replace(partial, part)


class _Collected:
    """The columns of one shard, in memory while it is scanned."""

    def __init__(self, plan: Plan, path: str):
        self._plan, self._path = plan, path
        self._episodes: list[tuple] = []
        self._rows: dict[str, list[np.ndarray]] = {c.name: [] for c in plan.columns if c.kind in ("image", "array")}
        self._texts: dict[str, list[str]] = {c.name: [] for c in plan.columns if c.kind in ("text", "codes")}
        self._damaged: list[str] = []

    def scan(self, expected: int | None) -> None:
        number = 0
        try:
            for number, record in enumerate(records.scan(self._path, self._plan.file_format), start=1):
                if record.data is None:
                    self._damage(f"{self._path} at byte {record.offset}: {record.damage}", "fetch the file again")
                else:
                    self._add(number - 1, record)
        except records.Ended as ended:
            self._damage(f"{self._path} from byte {ended.offset} on: {ended.reason}", "fetch the file again")
        else:
            if expected is not None and number != expected:
                self._damage(
                    f"{self._path} holds {number} records and should hold {expected}", "repair dataset_info.json"
                )

    def _damage(self, what: str, remedy: str) -> None:
        if self._plan.on_damage == "fail":
            raise errors.UserError(f"{what}; {remedy}, or set data.on_damage='skip'")
        self._damaged.append(what)

    def _add(self, number: int, record: records.Record) -> None:
        try:
            values = _columns_of(record.data, self._plan.columns)
        except (example.Malformed, schema.Mismatch) as error:
            self._damage(f"{self._path} at byte {record.offset} (record {number}): {error}", "repair the dataset")
            return
        steps, rows, texts = values
        for name, value in rows.items():
            self._rows[name].append(_located(value, record))
        for name, value in texts.items():
            self._texts[name].append(value)
        size, crc = len(record.data), google_crc32c.value(record.data)
        self._episodes.append((0, number, record.layout, record.offset, size, crc, 0, steps))

    def columns(self) -> dict[str, np.ndarray]:
        """What the part holds: one array a column."""
        found = {"episodes": np.array(self._episodes, EPISODE), "damaged": np.array(json.dumps(self._damaged))}
        for column in self._plan.columns:
            if column.name in self._rows:
                empty = np.zeros(0, FRAME) if column.kind == "image" else np.zeros((0, *column.shape), column.dtype)
                found[f"rows:{column.name}"] = np.concatenate([empty, *self._rows[column.name]])
            elif column.name in self._texts:
                found[f"text:{column.name}"] = np.array(json.dumps(self._texts[column.name]))
        return found


def _columns_of(
    record: bytes, columns: Sequence[schema.Column]
) -> tuple[int, dict[str, np.ndarray], dict[str, str]]:
    """(steps, rows of images and arrays, texts) of one record; offsets of frames are within the record."""
    features = example.parse(record)
    rows, texts, lengths = {}, {}, {}
    for column in columns:
        if column.kind == "image":
            rows[column.name] = _frames(record, schema.spans(features, record, column))
        elif column.kind == "array":
            rows[column.name] = schema.array(record, features, column)
        elif column.kind in ("text", "codes"):
            texts[column.name] = schema.text(record, features, column)
        if column.name in rows and column.per_step:
            lengths[column.name] = len(rows[column.name])
        elif column.name in rows and len(rows[column.name]) != 1:
            raise schema.Mismatch(f"{column.key} has {len(rows[column.name])} values an episode and not one")
    if len(set(lengths.values())) > 1:
        raise schema.Mismatch(f"features of one episode have different numbers of steps: {lengths}")
    return next(iter(lengths.values()), 0), rows, texts


def _frames(record: bytes, spans: Sequence[example.Span]) -> np.ndarray:
    frames = np.zeros(len(spans), FRAME)
    for i, (start, stop) in enumerate(spans):
        frames[i] = start, stop - start, google_crc32c.value(record[start:stop])
    return frames


def _located(values: np.ndarray, record: records.Record) -> np.ndarray:
    """Frames with their offsets in the file; other values as they are."""
    if values.dtype != FRAME or record.layout == records.WHOLE:
        return values
    if record.layout == records.FLAT:
        values["offset"] += record.offset
    else:
        values["offset"] = [records.position_in(record.offset, int(offset)) for offset in values["offset"]]
    return values


def _merge(
    plan: Plan,
    about: Mapping[str, Any],
    identities: Sequence[Any],
    parts: Sequence[pathlib.Path],
    folder: pathlib.Path,
) -> None:
    """All parts as one array a column, copied part by part."""
    episodes, damaged = [], []
    for shard, part in enumerate(parts):
        with np.load(part) as found:
            rows = found["episodes"]
            damaged += json.loads(str(found["damaged"]))
        rows["shard"] = shard
        episodes.append(rows)
    table = np.concatenate(episodes)
    table["start"] = np.cumsum(table["steps"], dtype=np.uint64) - table["steps"]
    np.save(folder / file_name(""), table)
    digests = {"": storage.digest(table["steps"].tolist())}
    totals = {True: int(table["steps"].sum(dtype=np.uint64)), False: len(table)}
    for column in plan.columns:
        if column.kind in ("image", "array"):
            digests[column.name] = _merge_rows(column, totals[column.per_step], parts, folder)
        elif column.kind in ("text", "codes"):
            digests[column.name] = _merge_texts(column, parts, folder)
    files = {path.name: checksum(path) for path in sorted(folder.iterdir())}
    about = {
        **about,
        "files": files,
        "episodes": len(table),
        "steps": totals[True],
        "damaged": damaged,
        "digests": digests,
        "shards": list(identities),
    }
    storage.write_json(folder / "index.json", about)


def _merge_rows(column: schema.Column, total: int, parts: Sequence[pathlib.Path], folder: pathlib.Path) -> str:
    shape, dtype = ((total,), FRAME) if column.kind == "image" else ((total, *column.shape), column.dtype)
    path, digest, done = folder / file_name(column.name), hashlib.sha256(), 0
    if not total:
        np.save(path, np.zeros(shape, dtype))
        return digest.hexdigest()[:16]
    out = np.lib.format.open_memmap(path, "w+", dtype, shape)
    for part in parts:
        with np.load(part) as found:
            rows = found[f"rows:{column.name}"]
        out[done : done + len(rows)] = rows
        done += len(rows)
        contents = np.stack([rows["length"], rows["crc"]], axis=1) if column.kind == "image" else rows
        digest.update(contents.tobytes())
    out.flush()
    return digest.hexdigest()[:16]


def _merge_texts(column: schema.Column, parts: Sequence[pathlib.Path], folder: pathlib.Path) -> str:
    numbers: dict[str, int] = {}
    rows, digest = [], hashlib.sha256()
    for part in parts:
        with np.load(part) as found:
            texts = json.loads(str(found[f"text:{column.name}"]))
        rows += [numbers.setdefault(text, len(numbers)) for text in texts]
        for text in texts:
            digest.update(json.dumps(text).encode())
    path = folder / file_name(column.name)
    np.save(path, np.array(rows, np.uint32))
    path.with_suffix(".json").write_text(json.dumps(list(numbers)), encoding="utf-8")
    return digest.hexdigest()[:16]
