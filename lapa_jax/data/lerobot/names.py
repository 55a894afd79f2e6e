"""Which features and episodes of a LeRobot dataset stand behind the standard names and a split."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from lapa_jax import errors
from lapa_jax.data.lerobot import files as lerobot_episodes
from lapa_jax.data.lerobot import meta as lerobot_meta
from lapa_jax.data.video import recordings

CAMERAS = ("image_primary", "image_secondary", "image_wrist")
ARRAYS = {"proprio": ("observation.state", "state"), "action": ("action", "actions")}

# Patterns of a camera's own name. Those of the wrist are set apart; of the others, those that _FIRST
# finds come first, those that _LAST finds come last, and equals stay in the order of info.json.
_WRIST = r"wrist|gripper|hand|palm"
_FIRST = r"primary|front|top|high|ego|head|exterior|agentview|main|base|scene|third"
_LAST = r"secondary|side|back|low|left|right"


def cameras(meta: lerobot_meta.Meta, chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Standard name -> feature, "image_primary" first.

    Cameras that are not of the wrist become "image_primary" and "image_secondary", the first of the
    wrist "image_wrist". Where all are of the wrist, the first of them is "image_primary".

    Args:
        chosen: standard name -> feature, to be used as it is; must have "image_primary".

    Raises:
        UserError: there is no camera, or none of a chosen name.
    """
    present = [
        key
        for key, feature in {**dict.fromkeys(meta.video_keys, {}), **meta.features}.items()
        if (key in meta.video_keys or feature["dtype"] == "image") and not _is_depth(key, feature)
    ]
    if chosen is not None:
        return _chosen(meta.name, "cameras", chosen, CAMERAS, [*present, *meta.video_keys], needed="image_primary")
    wrist = [key for key in present if re.search(_WRIST, _short(key))]
    others = sorted((key for key in present if key not in wrist), key=_rank)
    if not present:
        raise errors.UserError(
            f"{meta.name}: no camera with frames among its features {', '.join(meta.features)}; "
            "fetch videos/ or correct meta/info.json"
        )
    if not others:
        logging.warning("%s: all cameras are of the wrist; image_primary is %s", meta.name, wrist[0])
        others, wrist = wrist[:1], wrist[1:]
    named = dict(zip(("image_primary", "image_secondary"), others, strict=False))
    if wrist:
        named["image_wrist"] = wrist[0]
    unused = [key for key in present if key not in named.values()]
    logging.info("%s: cameras %s, left out %s", meta.name, named, unused or "none")
    return named


def arrays(meta: lerobot_meta.Meta, chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """Standard name -> feature for "proprio" and "action", as far as there are any.

    Args:
        chosen: standard name -> feature, to be used as it is.

    Raises:
        UserError: there is no feature of a chosen name.
    """
    if chosen is not None:
        return _chosen(meta.name, "arrays", chosen, tuple(ARRAYS), list(meta.features))
    found = {name: [key for key in keys if key in meta.features] for name, keys in ARRAYS.items()}
    return {name: keys[0] for name, keys in found.items() if keys}


def episodes_of(meta: lerobot_meta.Meta, split: str) -> tuple[lerobot_episodes.Episode, ...]:
    """The episodes of a split.

    "all" is every episode. Other names are those of info.json; where it has no "val", the episodes
    of "train" are divided into the two by `recordings.of_split`.

    Raises:
        UserError: there is no such split, or no episode in it.
    """
    if split == "all":
        return meta.episodes
    has_val = "val" in meta.splits
    if split in meta.splits and (has_val or split != "train"):
        episodes = _in_range(meta, split)
    elif split in ("train", "val") and not has_val:
        base = _in_range(meta, "train") if "train" in meta.splits else meta.episodes
        ids = [episode_id(episode) for episode in base]
        episodes = tuple(base[i] for i in recordings.of_split(ids, split))
    else:
        known = ", ".join(dict.fromkeys([*meta.splits, *(() if has_val else ("train", "val")), "all"]))
        raise errors.UserError(f"{meta.name}: no split {split!r}; choose one of {known}")
    if not episodes:
        raise errors.UserError(f"{meta.name}: split {split!r} has no episode of {len(meta.episodes)}; use 'all'")
    return episodes


def episode_id(episode: lerobot_episodes.Episode) -> str:
    return f"episode_{episode.index:06d}"


def _in_range(meta: lerobot_meta.Meta, split: str) -> tuple[lerobot_episodes.Episode, ...]:
    match = re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", str(meta.splits[split]))
    if not match:
        raise errors.UserError(
            f"{meta.name}: split {split!r} is {meta.splits[split]!r} in info.json; write it as 'start:stop'"
        )
    end = meta.episodes[-1].index + 1
    start, stop = int(match[1] or 0), int(match[2] or end)
    if stop > end:
        logging.warning("%s: split %s is %d:%d, but episodes end at %d", meta.name, split, start, stop, end)
    return tuple(episode for episode in meta.episodes if start <= episode.index < stop)


def _chosen(
    dataset: str, what: str, chosen: Mapping[str, str], names: tuple[str, ...], present: list[str], needed: str = ""
) -> dict[str, str]:
    for name, key in chosen.items():
        if name not in names or key not in present:
            raise errors.UserError(
                f"{dataset}: {what} cannot map {name!r} to {key!r}; names are {', '.join(names)}, "
                f"features are {', '.join(dict.fromkeys(present))}"
            )
    if needed and needed not in chosen:
        raise errors.UserError(f"{dataset}: {what} must name {needed!r}; it has {', '.join(chosen) or 'nothing'}")
    return {name: chosen[name] for name in names if name in chosen}


def _short(key: str) -> str:
    return re.sub(r"^observation\.(images?\.)?", "", key).lower()


def _rank(key: str) -> int:
    short = _short(key)
    return 0 if re.search(_FIRST, short) else 2 if re.search(_LAST, short) else 1


def _is_depth(key: str, feature: Mapping[str, Any]) -> bool:
    notes = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    said = notes.get("is_depth_map", notes.get("video.is_depth_map"))
    return "depth" in key.lower() if said is None else bool(said)
