"""LeRobot datasets v2.0, v2.1 and v3.0 as recordings: parquet rows beside mp4 files or embedded images.

What is there is read; where the metadata says otherwise, one line of warning says so.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data.lerobot import files as lerobot_episodes
from lapa_jax.data.lerobot import meta as lerobot_meta
from lapa_jax.data.lerobot import names as lerobot_names
from lapa_jax.data.lerobot import parquet
from lapa_jax.data.video import recordings

_OPTIONAL = ("task_index", "frame_index")


class LeRobot:
    """The episodes of one split; see `recordings.Recordings` for the attributes.

    Numeric features other than proprio and action are left out, as are cameras beyond three and
    cameras of depth. Ids are "episode_000000" with the episode's own number.
    """

    def __init__(
        self,
        directory: str | Path,
        split: str,
        cameras: Mapping[str, str] | None = None,
        arrays: Mapping[str, str] | None = None,
        name: str | None = None,
    ):
        """Reads the metadata, and the first episode so that what is wrong with it shows at once.

        Args:
            directory: the folder that holds meta/, data/ and videos/.
            split: one of info.json; "all"; or "val", which is held out of "train" where info.json
                has none.
            cameras: standard name -> feature, instead of the choice by `lerobot_names.cameras`:
                `{"image_primary": "observation.images.top"}`.
            arrays: "proprio" and "action" -> feature, instead of the usual keys.
            name: of the dataset; None makes one of the folder's name.

        Raises:
            UserError: bad metadata, no split or camera by that name, a missing file, or columns
                whose type or shape is not what info.json says.
        """
        meta = lerobot_meta.read(directory, name)
        self.name, self.rate = meta.name, meta.fps
        self._meta = meta
        self._cameras = lerobot_names.cameras(meta, cameras)
        self._arrays = lerobot_names.arrays(meta, arrays)
        self._episodes = lerobot_names.episodes_of(meta, split)
        self._warned: set[str] = set()
        self._cache: tuple[parquet.File, tuple[int, ...], parquet.Table] | None = None
        self.cameras = tuple(self._cameras)
        self.array_shapes = {name: _shape(meta, key) for name, key in self._arrays.items()}
        self.fingerprint = self._fingerprint(split)
        self._warn_of_columns()
        self[0]  # What is wrong in every episode shows here and not in a worker.

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> recordings.Recording:
        """Reads the rows of one episode.

        Raises:
            UserError: the file is missing or damaged, a column is missing, of another type or shape
                than info.json says, or ragged; timestamps are not finite or do not increase; the
                task_index is not in the table of tasks.
        """
        episode = self._episodes[index]
        where = f"{self.name}: {Path(episode.data).relative_to(self._meta.root)}, episode {episode.index}"
        table = self._rows(episode, where)
        return recordings.Recording(
            id=lerobot_names.episode_id(episode),
            instruction=self._instruction(episode, table, where),
            footage={camera: self._footage(key, episode, table, where) for camera, key in self._cameras.items()},
            timestamps=self._timestamps(table, where),
            arrays={name: self._array(key, table, where) for name, key in self._arrays.items()},
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def _rows(self, episode: lerobot_episodes.Episode, where: str) -> parquet.Table:
        """The columns in use of the rows of one episode."""
        cache = self._cache
        file = cache[0] if cache and cache[0].path == episode.data else parquet.File(episode.data)
        names = {"timestamp", *self._arrays.values(), *self._image_keys()}
        names |= {key for key in _OPTIONAL if key in file.columns}
        if episode.shares_data:
            table = self._shared_rows(file, episode, names)
        else:
            table = file.read(names)
        if not len(table):
            raise errors.UserError(f"{where}: the file has no row of it; fetch the dataset again")
        if len(table) != episode.length:
            self._warn_once("length", "%s: %d rows, but meta/ has %d", where, len(table), episode.length)
        return table

    def _shared_rows(self, file: parquet.File, episode: lerobot_episodes.Episode, names: set[str]) -> parquet.Table:
        """Keeps the row groups read last: the next episode is often in the same."""
        groups = file.groups_of("episode_index", episode.index)
        cache = self._cache
        if not cache or cache[0] is not file or cache[1] != groups:
            cache = self._cache = None  # Frees the old rows before the new ones are read.
            cache = self._cache = file, groups, file.read(names | {"episode_index"}, groups)
        return parquet.rows_where(cache[2], "episode_index", episode.index)

    def _image_keys(self) -> Iterable[str]:
        return (key for key in self._cameras.values() if key not in self._meta.video_keys)

    def _footage(
        self, key: str, episode: lerobot_episodes.Episode, table: parquet.Table, where: str
    ) -> recordings.Footage:
        if key in self._meta.video_keys:
            return episode.videos[key]
        return recordings.Footage(episode.data, frames=parquet.encoded_images(table, key, where))

    def _instruction(self, episode: lerobot_episodes.Episode, table: parquet.Table, where: str) -> str:
        if "task_index" not in table.column_names or not self._meta.tasks:
            return next(iter(episode.tasks), "")
        indices = parquet.scalars(table, "task_index", where)
        if (indices != indices[0]).any():
            self._warn_once("tasks", "%s: task_index changes on the way; the first row decides", where)
        try:
            return self._meta.tasks[int(indices[0])]
        except KeyError:
            raise errors.UserError(
                f"{where}: task_index {indices[0]} is not in the tasks of meta/; add it or drop the episode"
            ) from None

    def _timestamps(self, table: parquet.Table, where: str) -> np.ndarray:
        """float64[T], seconds from the first frame of the episode's video."""
        times = parquet.scalars(table, "timestamp", where).astype(np.float64)
        with np.errstate(invalid="ignore"):
            good = np.isfinite(times) & (np.diff(times, prepend=-np.inf) > 0)
        if not good.all():
            row = int(np.argmin(good))
            raise errors.UserError(
                f"{where}: timestamp {times[row]} in row {row} is not finite or not later than the one "
                "before; repair or drop the episode"
            )
        steps = np.diff(times)
        if len(steps) and abs(np.median(steps) * self.rate - 1) > 0.01:
            found = 1 / np.median(steps)
            self._warn_once("fps", "%s: timestamps run at %.4g Hz, fps is %g", where, found, self.rate)
        # A row's frame_index says which frame of the video is its own; without one it is the row's number.
        first = parquet.scalars(table, "frame_index", where)[0] if "frame_index" in table.column_names else 0
        late = times[0] - first / self.rate
        if abs(late) * self.rate > 0.01:
            self._warn_once("late", "%s: timestamps begin %.4g s late; shifted to the first frame", where, late)
            times = times - late
        return times

    def _array(self, key: str, table: parquet.Table, where: str) -> np.ndarray:
        """float32[T, D]."""
        values = parquet.vectors(table, key, where)
        feature = self._meta.features[key]
        if values.shape[1:] != _shape(self._meta, key):
            raise errors.UserError(
                f"{where}: {key} has {values.shape[1]} values a step, info.json says {feature['shape']}; "
                "correct meta/info.json or fetch the file again"
            )
        if _kind(feature["dtype"]) != values.dtype.kind:
            raise errors.UserError(
                f"{where}: {key} is {values.dtype}, info.json says {feature['dtype']}; correct meta/info.json"
            )
        if feature["dtype"] != values.dtype.name:
            self._warn_once(key, "%s: %s is %s, info.json says %s", where, key, values.dtype, feature["dtype"])
        return values.astype(np.float32)

    def _warn_once(self, kind: str, message: str, *values: Any) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logging.warning(message, *values)

    def _warn_of_columns(self) -> None:
        present = set(parquet.File(self._episodes[0].data).columns)
        listed = {key for key, feature in self._meta.features.items() if feature["dtype"] != "video"}
        for keys, text in (
            (listed - present, "info.json lists %s, which parquet files lack"),
            (present - set(self._meta.features), "parquet files have %s, which info.json does not list"),
        ):
            if keys:
                logging.warning(f"%s: {text}", self.name, ", ".join(sorted(keys)))

    def _fingerprint(self, split: str) -> str:
        root, keys = self._meta.root, [key for key in self._cameras.values() if key in self._meta.video_keys]
        files = {path for path in (root / "meta").rglob("*") if path.is_file()}
        files |= {Path(episode.data) for episode in self._episodes}
        files |= {Path(episode.videos[key].path) for episode in self._episodes for key in keys}
        digest = hashlib.sha256(repr((split, self.name, self._cameras, self._arrays, self.rate)).encode())
        for path in sorted(files):
            try:
                status = path.stat()
            except OSError:
                raise errors.UserError(f"{self.name}: no file {path}; fetch the dataset again") from None
            digest.update(repr((path.relative_to(root), status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()[:16]


def _shape(meta: lerobot_meta.Meta, key: str) -> tuple[int, ...]:
    """Shape of one step of a feature, (1,) for plain numbers."""
    shape = meta.features[key].get("shape")
    if not isinstance(shape, list) or len(shape) > 1 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise errors.UserError(
            f"{meta.name}: shape {shape!r} of {key} in meta/info.json is not that of a vector; "
            "choose another feature with arrays="
        )
    return tuple(shape) or (1,)


def _kind(dtype: str) -> str:
    try:
        return np.dtype(dtype).kind
    except TypeError:
        return dtype
