"""RLDS datasets as published: a TFDS folder, opened by its own feature spec and indexed once.

Neither TensorFlow nor TFDS is needed. TFRecord is read from local paths and from any URL that fsspec
knows, ArrayRecord from local paths.
"""

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.stored import features, index, indexing, schema, storage
from lapa_jax.data.tables import standard
from lapa_jax.data.video import recordings

Episodes = episodes_lib.Episodes
_VIEWS = ("video", "robot")
_HELD_OUT = ("val", "validation", "test")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A TFDS folder.

    Attributes:
        directory: the version's folder.
        name: as dataset_info.json has it.
        file_format: "tfrecord" or "array_record".
        splits: name -> (file name template, records of each shard).
        columns: what a record holds.
        about: what our own writers say of it (lapa.json); empty for others'.
    """

    directory: str
    name: str
    file_format: str
    splits: Mapping[str, tuple[str, tuple[int, ...]]]
    columns: tuple[schema.Column, ...]
    about: Mapping[str, Any]

    def shards(self, split: str) -> tuple[str, ...]:
        """Paths of the shards of a split.

        Raises:
            UserError: no such split, or an empty one.
        """
        if split not in self.splits:
            raise errors.UserError(
                f"no split {split!r} in {self.directory}; it has: {', '.join(sorted(self.splits))}"
            )
        template, lengths = self.splits[split]
        if not sum(lengths):
            raise errors.UserError(f"split {split!r} of {self.directory} is empty; build it with more episodes")
        count, names = len(lengths), []
        for i in range(count):
            values = {
                "DATASET": self.name,
                "SPLIT": split,
                "FILEFORMAT": self.file_format,
                "SHARD_INDEX": f"{i:05d}",
                "NUM_SHARDS": f"{count:05d}",
                "SHARD_X_OF_Y": f"{i:05d}-of-{count:05d}",
            }
            try:
                names.append(_inside(template.format(**values)))
            except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
                raise errors.UserError(
                    f"{self.directory}: file name template {template!r} is not one that TFDS writes"
                ) from error
        return tuple(storage.join(self.directory, name) for name in names)

    def of_kind(self, *kinds: str) -> dict[str, schema.Column]:
        """The columns of these kinds, by name."""
        return {column.name: column for column in self.columns if column.kind in kinds}


def open_dataset(directory: str | pathlib.Path) -> Dataset:
    """Reads features.json and dataset_info.json of the one dataset at or below `directory`.

    Raises:
        UserError: none or several there, or files that TFDS did not write.
    """
    folder = find_dataset(directory)
    tree = features.read(storage.read_text(storage.join(folder, "features.json")), folder)
    info_path, own = storage.join(folder, "dataset_info.json"), storage.join(folder, storage.READY)
    try:
        info = json.loads(storage.read_text(info_path))
        splits = {split["name"]: _stored_split(split) for split in info.get("splits", ())}
        name, file_format = _text(info["name"]), _text(info.get("fileFormat") or "tfrecord")
        about = json.loads(storage.read_text(own)) if storage.exists(own) else {}
        _check_own(about)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.UserError(
            f"{info_path} (or lapa.json beside it) is not what its writer writes ({error!r:.120})"
        ) from error
    if not splits:
        raise errors.UserError(f"{info_path} names no split; is the dataset built to its end?")
    return Dataset(folder, name, file_format, splits, schema.columns(tree), about)


def _inside(name: str) -> str:
    if "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is no file of the dataset's folder")
    return name


def _stored_split(split: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    template, lengths = _text(split.get("filepathTemplate") or _TEMPLATE), split["shardLengths"]
    counts = tuple(int(length) for length in lengths) if isinstance(lengths, list) else (-1,)
    if min(counts, default=0) < 0:
        raise ValueError(f"shardLengths {lengths!r}")
    return template, counts


def _check_own(about: Mapping[str, Any]) -> None:
    rate = about.get("rate_hz", 1.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"rate_hz {rate!r}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def find_dataset(directory: str | pathlib.Path) -> str:
    """The one TFDS version folder at or below `directory`.

    Raises:
        UserError: none or several there.
    """
    root = str(directory)
    if not root:
        raise errors.UserError("data.directory is empty; give the folder of a dataset")
    described = storage.find(root, "features.json")
    found = [
        path
        for path in described
        if storage.exists(storage.join(path, "dataset_info.json"))
        # What a killed TFDS build leaves behind.
        and not any(part.startswith("incomplete.") for part in pathlib.PurePath(path[len(root) :]).parts)
    ]
    if not found and described:
        raise errors.UserError(f"{described[0]} has features.json and no dataset_info.json; fetch it whole")
    if not found:
        raise errors.UserError(
            f"no dataset at {root}: build one with `python data/simulated/build.py --out={root}` or give the "
            "folder of an RLDS dataset, a LeRobot dataset or videos"
        )
    if len(found) > 1:
        raise errors.UserError(f"{len(found)} datasets below {root}; give one of: {', '.join(found)}")
    return found[0]


def open_index(
    dataset: Dataset,
    split: str,
    cache: str | None = None,
    on_damage: str = "fail",
    workers: int | None = None,
    progress: bool = True,
) -> index.Index:
    """The sidecar index of a split; see `indexing.open_index`."""
    plan = indexing.Plan(
        f"{dataset.name}-{split}".replace("/", "_"),
        dataset.shards(split),
        dataset.file_format,
        dataset.columns,
        on_damage,
        dataset.splits[split][1],
    )
    return indexing.open_index(plan, storage.cache_folder(cache), workers, progress)


def open_episodes(
    directory: str | pathlib.Path,
    split: str,
    view: Literal["video", "robot"] = "video",
    image_key: str | None = None,
    *,
    name: str | None = None,
    rate: float | None = None,
    cache: str | None = None,
    on_damage: Literal["fail", "skip"] = "fail",
    hold_out: bool = True,
) -> Episodes:
    """Episodes of a split under the standard names; the first call indexes its shards.

    Args:
        directory: a TFDS version folder, or any parent with exactly one dataset below it.
        split: a split name; see `split_of` for "train" and "val".
        view: "video" shows images and instructions and opens nothing else; "robot" adds `action` and
            `proprio` float32[T, D], and every stored number under its own name without `observation/`.
        image_key: "image_primary", "image_secondary", "image_wrist" or the dataset's own key; None is the
            first of these that there is.
        name: which entry of the table to use; None is the dataset's own name.
        rate: steps a second, for a dataset whose rate the table does not know.
        cache: where the index is kept; None is LAPA_JAX_CACHE or ~/.cache/lapa_jax.
        on_damage: what a damaged record does: stop, or be left out with a warning at each opening.
        hold_out: whether "val" may be a part of "train"; False takes splits as they are stored.

    Raises:
        UserError: no dataset, split or image by that name, or data that is not as the table says.
    """
    if view not in _VIEWS:
        raise errors.UserError(f"no view {view!r}; choose 'video' or 'robot'")
    if rate is not None and not 0 < rate < math.inf:
        raise errors.UserError(f"data.rate {rate} is no number of steps a second; give one above 0, or none")
    dataset = open_dataset(directory)
    entry = entry_of(dataset, name, view)
    images = _images(dataset, entry)
    camera = _camera(dataset, images, image_key)
    source, part = split_of(dataset, split) if hold_out else (split, None)
    stored = open_index(dataset, source, cache, on_damage)
    episodes = _view(dataset, entry, stored, view, images, camera, entry.rate if entry.rate is not None else rate)
    if part is None:
        return episodes
    rows = recordings.of_split([str(e) for e in range(len(episodes))], part)
    if not rows:
        raise errors.UserError(
            f"{dataset.directory} has one episode and none to hold out for {split!r}; use 'train'"
        )
    return episodes.chosen(rows, part)


def split_of(dataset: Dataset, split: str) -> tuple[str, str | None]:
    """(stored split, part of it) that a split is read from; the part is None for the whole.

    Most published datasets have no "val": then their "validation" or "test" serves, and where there is
    neither, "val" is the share of "train" that `recordings.of_split` holds out, and "train" is the rest.
    """
    others = [name for name in _HELD_OUT if name in dataset.splits]
    if split in dataset.splits and (split != "train" or others):
        return split, None
    if split == "val" and others:
        return others[0], None
    if split in ("train", "val") and "train" in dataset.splits:
        return "train", split
    return split, None


def entry_of(dataset: Dataset, name: str | None = None, view: str = "robot") -> standard.Entry:
    """The entry of the table for a dataset; inferred from its features where the table has none.

    Raises:
        UserError: `name` is not in the table, or the dataset is not as the entry says.
    """
    entry = standard.lookup(name or dataset.name)
    if name is not None and entry is None:
        raise errors.UserError(f"no dataset {name!r} in the table; see docs/datasets.md, or leave data.name out")
    if name is None and "rate_hz" in dataset.about:
        entry = standard.clips_entry(dataset.name, dataset.about["rate_hz"], dataset.columns)
    if entry is None:
        names = (tuple(dataset.of_kind(*kinds)) for kinds in (("image",), ("array",), ("text", "codes")))
        entry = standard.infer(dataset.name, *names)
        logging.info("%s is not in the table; inferred: %s", dataset.name, entry)
    needed = entry if view == "robot" else dataclasses.replace(entry, action=(), proprio=())
    known = dataset.of_kind("image", "array", "text", "codes")
    standard.check(needed, {column.name: (column.shape, column.dtype) for column in known.values()})
    return entry


def _images(dataset: Dataset, entry: standard.Entry) -> dict[str, str]:
    """Names that a camera answers to -> column: the standard ones first, then the dataset's own."""
    columns = dataset.of_kind("image")
    if not columns:
        seen = sorted(column.name for column in dataset.columns if column.name.startswith("observation"))
        raise errors.UserError(f"no image feature in steps/observation of {dataset.directory}; it has {seen}")
    standard_names = {camera: entry.images[camera] for camera in standard.CAMERAS if camera in entry.images}
    own = {name.removeprefix("observation/"): name for name in sorted(columns)}
    return {**standard_names, **own, **{name: name for name in columns}}


def _camera(dataset: Dataset, images: Mapping[str, str], image_key: str | None) -> str:
    if image_key is None:
        return next(iter(images))
    if image_key not in images:
        raise errors.UserError(f"no image {image_key!r} in {dataset.directory}; it has: {', '.join(images)}")
    return image_key


@dataclasses.dataclass(frozen=True)
class StoredFrames:
    """Frames of one column of an index, read by position."""

    index: index.Index
    column: str
    skipped: int

    def read(self, episode: int, step: int) -> bytes:
        return self.index.frame(self.column, episode, step + self.skipped)


@dataclasses.dataclass(frozen=True)
class StoredArrays:
    """Columns of an index through the parts of an entry."""

    index: index.Index
    parts: tuple[standard.Part, ...]
    trim: tuple[int, int]

    def read(self, episode: int) -> np.ndarray:
        row = self.index.episodes[episode]
        start, steps = int(row["start"]), int(row["steps"])
        raw = {part.key: self.index.mapped(part.key)[start : start + steps] for part in self.parts}
        values = standard.apply(self.parts, raw)
        return values[self.trim[0] : max(steps - self.trim[1], 0)]


def _view(
    dataset: Dataset,
    entry: standard.Entry,
    stored: index.Index,
    view: str,
    images: Mapping[str, str],
    camera: str,
    rate: float | None,
) -> Episodes:
    lengths = np.maximum(stored.episodes["steps"].astype(np.int64) - sum(entry.trim), 0)
    arrays = _arrays(dataset, entry, stored) if view == "robot" else {}
    instruction = standard.instruction_keys(entry)
    used = sorted({part.key for source in arrays.values() for part in source.parts})
    identity = [view, entry.trim, stored.digest(""), stored.digest(images[camera])]
    identity += [stored.digest(key) for key in instruction]
    identity += [[key, stored.digest(key)] for key in used]
    identity += [repr(entry.action), repr(entry.proprio)] if view == "robot" else []
    return Episodes(
        name=entry.name,
        fingerprint=storage.digest(identity),
        view=view,
        rate=rate,
        image_shape=dataset.of_kind("image")[images[camera]].shape,
        lengths=lengths,
        instructions=_instructions(stored, instruction),
        camera=camera,
        cameras={name: StoredFrames(stored, column, entry.trim[0]) for name, column in images.items()},
        arrays=arrays,
        stored=np.arange(len(stored)),
        source=storage.digest([entry.trim, stored.digest(""), stored.digest(images[camera])]),
    )


def _instructions(stored: index.Index, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The first text of each episode that is not empty."""
    if not keys:
        return ("",) * len(stored)
    return tuple(next(filter(None, texts), "") for texts in zip(*map(stored.texts, keys), strict=True))


def _arrays(dataset: Dataset, entry: standard.Entry, stored: index.Index) -> dict[str, StoredArrays]:
    own = {
        name.removeprefix("observation/"): (standard.Part(name),)
        for name, column in dataset.of_kind("array").items()
        if column.per_step
    }
    if "effector_translation" in own:
        own["effector"] = own["effector_translation"]
    named = {name: parts for name, parts in (("action", entry.action), ("proprio", entry.proprio)) if parts}
    return {name: StoredArrays(stored, parts, entry.trim) for name, parts in {**own, **named}.items()}
