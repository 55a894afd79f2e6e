"""What a LeRobot dataset says of itself in meta/, and warnings where that disagrees with itself."""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lapa_jax import errors
from lapa_jax.data.lerobot import files as lerobot_episodes
from lapa_jax.data.lerobot import parquet


@dataclasses.dataclass(frozen=True)
class Meta:
    """The metadata of a dataset.

    Attributes:
        name: lower-case letters, digits and underscores.
        root: the folder that holds meta/, data/ and videos/.
        fps: steps a second.
        features: key -> {"dtype", "shape", ...} of info.json.
        splits: name -> "start:stop" in numbers of episodes.
        tasks: task_index -> text; empty where there is no such file.
        video_keys: cameras whose videos are on disk, in the order of info.json.
        episodes: in order of their numbers.
    """

    name: str
    root: Path
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    splits: Mapping[str, str]
    tasks: Mapping[int, str]
    video_keys: tuple[str, ...]
    episodes: tuple[lerobot_episodes.Episode, ...]


def read(directory: str | Path, name: str | None = None) -> Meta:
    """Reads meta/ once and logs one warning for each thing in it that disagrees.

    Args:
        directory: the folder that holds meta/, data/ and videos/.
        name: of the dataset; None makes one of the folder's name.

    Raises:
        UserError: no meta/info.json, an unknown version, no frame rate, or a file of meta/ that is
            missing or damaged.
    """
    root = Path(directory).expanduser().resolve()
    name = _name(root, name)
    info = _info(root, name)
    tasks = _tasks(root, name)
    video_keys = _video_keys(root, name, info)
    episodes = lerobot_episodes.read(root, name, info, video_keys)
    if not episodes:
        raise errors.UserError(f"{name}: {root}/meta lists no episodes; fetch the dataset again")
    video_keys = tuple(key for key in video_keys if key in episodes[0].videos)
    _warn_of_totals(name, info, tasks, video_keys, episodes)
    _warn_of_episodes(name, float(info["fps"]), episodes)
    return Meta(
        name=name,
        root=root,
        fps=float(info["fps"]),
        features=info["features"],
        splits=info.get("splits") or {},
        tasks=tasks,
        video_keys=video_keys,
        episodes=episodes,
    )


def _name(root: Path, name: str | None) -> str:
    if name is None:
        return re.sub(r"[^a-z0-9]+", "_", root.name.lower()).strip("_") or "lerobot"
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise errors.UserError(f"{name!r} cannot name a dataset; use lower-case letters, digits and _")
    return name


def _info(root: Path, name: str) -> dict[str, Any]:
    path = root / "meta/info.json"
    if not path.is_file():
        raise errors.UserError(f"{name}: no {path}; give the folder that holds meta/, data/ and videos/")
    try:
        info = json.loads(path.read_bytes())
    except ValueError as error:
        raise errors.UserError(f"{name}: {path} is not JSON ({error}); fetch it again") from error
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version not in lerobot_episodes.VERSIONS:
        raise errors.UserError(
            f"{name}: codebase_version {version!r} in {path} is none of {', '.join(lerobot_episodes.VERSIONS)}; "
            "convert the dataset with the scripts of lerobot"
        )
    fps = info.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < float("inf"):
        raise errors.UserError(f"{name}: fps {fps!r} in {path} is no rate; write the steps a second there")
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(f, dict) and "dtype" in f for f in features.values()):
        raise errors.UserError(f"{name}: features in {path} do not map keys to dtype and shape; correct them")
    return info


def _tasks(root: Path, name: str) -> dict[int, str]:
    if (path := root / "meta/tasks.parquet").is_file():
        # The texts are the index of a data frame, which older versions left without a name.
        text = "task" if "task" in parquet.File(path).columns else "__index_level_0__"
        return {row["task_index"]: row[text] for row in parquet.rows(path, ["task_index", text])}
    if (path := root / "meta/tasks.jsonl").is_file():
        rows = lerobot_episodes.json_lines(path, name, ("task_index", "task"))
        return {row["task_index"]: row["task"] for row in rows}
    logging.warning("%s: no meta/tasks.parquet or tasks.jsonl; episodes' own tasks are the instructions", name)
    return {}


def _video_keys(root: Path, name: str, info: Mapping[str, Any]) -> list[str]:
    """Video features that have a folder, and folders that info.json forgot."""
    features, template = info["features"], info.get("video_path")
    declared = [key for key, feature in features.items() if feature["dtype"] == "video"]
    found = set()
    if isinstance(template, str) and re.match(r"[^/{]", template):
        pattern = re.sub(r"(\{[^}]*\})+", "*", template.partition("{video_key}")[0]) + "*"
        found = {path.name for path in root.glob(pattern) if path.is_dir() and not path.name.startswith(".")}
    for key in declared:
        if key not in found:
            logging.warning("%s: camera %s of info.json has no folder of videos; left out", name, key)
    forgotten = sorted(found - set(features))
    for key in forgotten:
        logging.warning("%s: info.json does not list %s, of which there are videos; taken as a camera", name, key)
    return [key for key in declared if key in found] + forgotten


def _warn_of_totals(
    name: str,
    info: Mapping[str, Any],
    tasks: Mapping[int, str],
    video_keys: Sequence[str],
    episodes: Sequence[lerobot_episodes.Episode],
) -> None:
    counted = {
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
        "total_tasks": len(tasks),
    }
    if info["codebase_version"] != "v3.0":
        counted["total_chunks"] = len({Path(episode.data).parent for episode in episodes})
        counted["total_videos"] = len(episodes) * len(video_keys)
    for key, count in counted.items():
        if info.get(key, count) != count:
            logging.warning("%s: %s in info.json is %s, but there are %d", name, key, info[key], count)


def _warn_of_episodes(name: str, fps: float, episodes: Sequence[lerobot_episodes.Episode]) -> None:
    several = [episode for episode in episodes if len(episode.tasks) > 1]
    if several:
        logging.warning(
            "%s: %d episodes list several tasks (episode %d: %s); the task_index of the first row decides",
            name,
            len(several),
            several[0].index,
            ", ".join(map(repr, several[0].tasks)),
        )
    for key in episodes[0].videos:
        spans = [(e, e.videos[key].stop, e.videos[key].start) for e in episodes]
        wrong = [e for e, stop, start in spans if stop is not None and abs((stop - start) * fps - e.length) > 1.5]
        if wrong:
            footage = wrong[0].videos[key]
            logging.warning(
                "%s: %d episodes have more or less video of %s than steps (episode %d: %.2f s, %d steps at %g Hz)",
                name,
                len(wrong),
                key,
                wrong[0].index,
                footage.stop - footage.start,
                wrong[0].length,
                fps,
            )
