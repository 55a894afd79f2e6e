"""Any source by its folder: RLDS is indexed where it lies, videos are decoded once and then indexed."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from lapa_jax import errors
from lapa_jax.data import augment, gaps, rlds
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.lerobot import dataset as lerobot
from lapa_jax.data.stored import storage
from lapa_jax.data.tables import mixtures
from lapa_jax.data.video import clips, recordings
from lapa_jax.data.video import folders as video

_ROBOT = ("name", "rate", "cache", "on_damage")


def open_mixture(
    data: Mapping[str, Any], split: str, view: Literal["video", "robot"] = "video"
) -> episodes_lib.Mixture:
    """The episodes that a config's `data` names: one dataset, or the members of `data.mixture`.

    Args:
        data: the keys of `get_data` in experiments/configs/common.py.
        split: of each dataset; see `rlds.split_of`.
        view: see `rlds.open_episodes`.

    Raises:
        UserError: a dataset is missing or not as the table says.
    """
    if data["mixture"] is None:
        return episodes_lib.as_mixture(open_episodes(data["directory"], split, view, data))
    members = mixtures.parse(data["mixture"])
    folders = [_below(data["directory"], name) for name, _ in members]
    if missing := [folder for folder in folders if not storage.exists(folder)]:
        raise errors.UserError(
            f"{len(missing)} of the {len(folders)} datasets of data.mixture are not there: {', '.join(missing)}; "
            "fetch them, or give the ones you have as FOLDER=WEIGHT,..."
        )
    opened = tuple(open_episodes(folder, split, view, data) for folder in folders)
    seen: dict[str, str] = {}
    for folder, episodes in zip(folders, opened, strict=True):
        if (first := seen.setdefault(episodes.fingerprint, folder)) != folder:
            raise errors.UserError(f"{first} and {folder} of data.mixture hold the same data; name it once")
    return episodes_lib.Mixture(opened, tuple(weight for _, weight in members), data["balance"])


def open_episodes(
    directory: str | pathlib.Path, split: str, view: Literal["video", "robot"], data: Mapping[str, Any]
) -> episodes_lib.Episodes:
    """The episodes of one folder, whatever its form; `data` as in `open_mixture`.

    Videos are decoded below `data.cache` at the first call: minutes for thousands of clips; the recipe
    data/video/build.py does the same beforehand, on many machines.

    Raises:
        UserError: nothing there that can be read.
    """
    folder = os.path.expanduser(str(directory))
    videos = not storage.is_url(folder) and bool(folder) and not rlds_below(folder)
    if not videos and not storage.is_url(folder):
        _check_alone(folder)
    if videos:
        folder = str(decode(folder, split, data))
    choices = {key: data[key] for key in _ROBOT} | {"hold_out": not videos}
    return rlds.open_episodes(folder, split, view, data["image_key"], **choices)


def rlds_below(folder: str) -> bool:
    """Whether there is a TFDS dataset at or below `folder`."""
    return bool(storage.find(folder, "dataset_info.json") or storage.find(folder, "features.json"))


def _check_alone(folder: str) -> None:
    """Refuses a parent of an RLDS dataset and of something else: which one is meant?"""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if os.path.isdir(folder) else ():
        if not entry.is_dir() or rlds_below(entry.path):
            continue
        is_lerobot = os.path.exists(os.path.join(entry.path, "meta", "info.json"))
        if is_lerobot or any(name.lower().endswith(video.SUFFIXES) for name in os.listdir(entry.path)):
            raise errors.UserError(f"{folder} holds an RLDS dataset and {entry.path} beside it; give one of them")


def decode(folder: str, split: str, data: Mapping[str, Any]) -> pathlib.Path:
    """A folder of videos, frames or LeRobot as RLDS in the cache, made when it is not there yet.

    Raises:
        UserError: nothing there that can be read.
    """
    if not os.path.isdir(folder):
        what = "it is a file" if os.path.exists(folder) else "no such folder"
        raise errors.UserError(
            f"no dataset at {folder} ({what}): set data.directory, or make one with data/simulated/build.py"
        )
    source = recordings_of(folder, split, data)
    chosen = data["clips"]
    if source.rate is None and not 0 < chosen["rate"] < math.inf:
        raise errors.UserError(f"data.clips.rate {chosen['rate']} is no number of frames a second; use more than 0")
    rate = chosen["rate"] if source.rate is None else None  # of robots every step is kept
    settings = clips.Settings(rate=rate, size=chosen["size"], quality=chosen["quality"])
    identity = storage.digest([source.fingerprint, split, dataclasses.asdict(settings), data["on_damage"]])
    out = storage.cache_folder(data["cache"]) / "clips" / f"{split}-{identity}"
    return clips.build({split: source}, out, settings, on_error=data["on_damage"])


def recordings_of(folder: str, split: str, data: Mapping[str, Any]) -> recordings.Recordings:
    """The recordings of a split of a LeRobot dataset, or of a folder of videos."""
    if os.path.exists(os.path.join(folder, "meta", "info.json")):
        return lerobot.LeRobot(folder, split)
    return video.open_recordings(folder, split, rate=data["rate"])


def gap_of(data: Mapping[str, Any]) -> gaps.Gap:
    """The gap that a config's `data` names."""
    return gaps.Gap(data["gap"], data["longest_gap"], data["past_end"])


def reading(data: Mapping[str, Any]) -> dict[str, Any]:
    """How a loader reads: the fields of `streams.Order` and the augmentation."""
    changes = augment.Augment(**data["augment"])
    return {"augment": changes, "num_threads": data["num_threads"], "num_workers": data["num_workers"]}


def _below(root: str, name: str) -> str:
    return name if storage.is_url(name) or os.path.isabs(name) else storage.join(root, name)
