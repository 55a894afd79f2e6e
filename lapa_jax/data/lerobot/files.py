"""Where each episode of a LeRobot dataset is, for the two layouts of v2.x and v3.0.

v2.x has a parquet file and one mp4 a camera for each episode; v3.0 has many episodes in a file and
says in meta/episodes where each begins. Source: github.com/huggingface/lerobot, `src/lerobot/datasets`
and `scripts/convert_dataset_v21_to_v30.py`.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lapa_jax import errors
from lapa_jax.data.lerobot import parquet
from lapa_jax.data.video import recordings


@dataclasses.dataclass(frozen=True)
class Episode:
    """Where one episode is.

    Attributes:
        index: its number in the dataset.
        length: steps, as the metadata has it.
        tasks: texts that the metadata lists for it.
        data: the parquet file that holds its rows.
        shares_data: whether that file holds other episodes as well.
        videos: feature -> its frames.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str
    shares_data: bool
    videos: Mapping[str, recordings.Footage]


def read(root: Path, name: str, info: Mapping[str, Any], video_keys: Sequence[str]) -> tuple[Episode, ...]:
    """All episodes in order of their numbers.

    Args:
        root: the folder that holds meta/.
        name: of the dataset, for messages.
        info: meta/info.json.
        video_keys: cameras with videos; one whose offsets are not in meta/episodes gets none.

    Raises:
        UserError: no list of episodes, a damaged one, or one with an episode twice.
    """
    version = info["codebase_version"]
    path, rows, locate = _LAYOUTS[version](root, name, info, video_keys)
    rows = sorted(_checked(rows, name, path), key=lambda row: row["episode_index"])
    for before, row in zip(rows, rows[1:], strict=False):
        if before["episode_index"] == row["episode_index"]:
            raise errors.UserError(
                f"{name}: episode {row['episode_index']} is twice in {path}; remove the stale entry"
            )
    episodes = []
    for row in rows:
        data, videos = locate(row)
        tasks = _texts(row.get("tasks"))
        episodes.append(Episode(row["episode_index"], row["length"], tasks, data, version == "v3.0", videos))
    return tuple(episodes)


def json_lines(path: Path, name: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file, each of which must have `keys`."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise errors.UserError(
                f"{name}: line {number} of {path} is no JSON object with {' and '.join(keys)}; correct it"
            )
        rows.append(row)
    return rows


def _v2(root: Path, name: str, info: Mapping[str, Any], video_keys: Sequence[str]):
    path = root / "meta/episodes.jsonl"
    if not path.is_file():
        raise errors.UserError(f"{name}: no {path}; fetch the dataset again")
    chunks_size = info.get("chunks_size", 1000)
    if not isinstance(chunks_size, int) or chunks_size < 1:
        raise errors.UserError(f"{name}: chunks_size {chunks_size!r} in meta/info.json is no count; usual is 1000")

    def locate(row: Mapping[str, Any]) -> tuple[str, dict[str, recordings.Footage]]:
        at = {"episode_index": row["episode_index"], "episode_chunk": row["episode_index"] // chunks_size}
        data = _path(root, name, info, "data_path", **at)
        paths = {key: _path(root, name, info, "video_path", video_key=key, **at) for key in video_keys}
        return data, {key: recordings.Footage(path) for key, path in paths.items()}

    return path, json_lines(path, name, ("episode_index", "length")), locate


def _v3(root: Path, name: str, info: Mapping[str, Any], video_keys: Sequence[str]):
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not paths:
        raise errors.UserError(f"{name}: no {root}/meta/episodes/*/*.parquet; fetch the dataset again")
    present = set(parquet.File(paths[0]).columns)
    offsets = {key: [f"videos/{key}/{field}" for field in _OFFSETS] for key in video_keys}
    for key in [key for key in video_keys if not present.issuperset(offsets[key])]:
        logging.warning("%s: meta/episodes does not say where videos of %s begin; left out", name, key)
        del offsets[key]
    # By name: beside these there are columns of statistics, far larger.
    wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    wanted += ["tasks"] if "tasks" in present else []
    wanted += [column for columns in offsets.values() for column in columns]

    def locate(row: Mapping[str, Any]) -> tuple[str, dict[str, recordings.Footage]]:
        at = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        videos = {key: _span(root, name, info, key, row, columns) for key, columns in offsets.items()}
        return _path(root, name, info, "data_path", **at), videos

    return root / "meta/episodes", [row for path in paths for row in parquet.rows(path, wanted)], locate


_LAYOUTS = {"v2.0": _v2, "v2.1": _v2, "v3.0": _v3}
_OFFSETS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
VERSIONS = tuple(_LAYOUTS)


def _span(
    root: Path, name: str, info: Mapping[str, Any], key: str, row: Mapping[str, Any], columns: Sequence[str]
) -> recordings.Footage:
    chunk, file, start, stop = (row[column] for column in columns)
    if None in (chunk, file, start, stop) or not 0 <= start < stop < float("inf"):
        raise errors.UserError(
            f"{name}: episode {row['episode_index']} has no span of {key} in meta/episodes "
            f"({start!r} to {stop!r}); correct it or fetch the dataset again"
        )
    path = _path(root, name, info, "video_path", video_key=key, chunk_index=chunk, file_index=file)
    return recordings.Footage(path, start, stop)


def _path(root: Path, name: str, info: Mapping[str, Any], key: str, **fields: Any) -> str:
    template = info.get(key)
    try:
        path = root / template.format(**fields)
        path.relative_to(root)
        return str(path)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise errors.UserError(
            f"{name}: {key} {template!r} in meta/info.json is no path below the dataset with "
            f"{', '.join(fields)}; correct it"
        ) from error


def _checked(rows: Sequence[dict[str, Any]], name: str, path: Path) -> Sequence[dict[str, Any]]:
    for row in rows:
        if not all(isinstance(row[key], int) and row[key] >= 0 for key in ("episode_index", "length")):
            raise errors.UserError(
                f"{name}: an episode in {path} has episode_index {row['episode_index']!r} and length "
                f"{row['length']!r}; correct it or fetch the dataset again"
            )
    return rows


def _texts(tasks: str | Sequence[str] | None) -> tuple[str, ...]:
    return (tasks,) if isinstance(tasks, str) else tuple(tasks or ())
