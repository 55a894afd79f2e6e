"""Human video as found on disk: Something-Something V2, folders of videos, folders of frames."""

import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lapa_jax import errors
from lapa_jax.data.video import instructions, pictures, recordings

SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
_SOMETHING_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_SOMETHING_LABELS = ("something-something-v2-{}.json", "labels/{}.json", "labels/something-something-v2-{}.json")


def open_recordings(
    directory: str | Path, split: str, *, rate: float | None = None, name: str | None = None
) -> recordings.Recordings:
    """Sees what kind of folder it is.

    Args:
        directory: with Something-Something's label files in it or beside it, or with videos below it, or
            with folders of images.
        split: "train", "val" or "all".
        rate: images a second, needed for folders of images only.
        name: of the dataset; None makes one from the folder's.

    Raises:
        UserError: nothing of the kind is there.
    """
    directory = _existing(directory)
    for place in (directory, directory.parent):
        if _labels(place, "train") or _labels(place, "val"):
            return SomethingSomething(place, split, **({"name": name} if name else {}))
    if next(_files(directory, SUFFIXES), None):
        return VideoFolder(directory, split, name)
    if next(_files(directory, pictures.SUFFIXES), None):
        return FrameFolders(directory, split, rate, name)
    raise errors.UserError(f"no videos ({', '.join(SUFFIXES)}) and no folders of images in {directory}")


class _Human:
    """What all sources of human video have in common; see `recordings.Recordings`."""

    cameras = ("image_primary",)
    array_shapes: Mapping[str, tuple[int, ...]] = {}
    rate: float | None = None

    def __init__(self, directory: Path, name: str, files: Sequence[str], texts: Sequence[str]):
        self.name = name
        self._directory, self._files, self._texts = directory, tuple(files), tuple(texts)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> recordings.Recording:
        file = self._files[index]
        footage = {"image_primary": recordings.Footage(str(self._directory / file))}
        return recordings.Recording(file, self._texts[index], footage)

    @functools.cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self._directory, self._files, (self.rate, self._texts))


class SomethingSomething(_Human):
    """Something-Something V2 as distributed: `ID.webm` files and the label files beside them."""

    def __init__(self, directory: str | Path, split: str, name: str = "something_something_v2"):
        """
        Args:
            directory: with `something-something-v2-SPLIT.json` or `labels/SPLIT.json`; videos in it or in
                a folder below it.
            split: "train", "val" ("validation"), "test" (without instructions) or "all" (train and val).

        Raises:
            UserError: the label file is missing or malformed, or none of its videos is there.
        """
        directory = _existing(directory)
        wanted = ("train", "val") if split == "all" else (split,)
        entries = [entry for part in wanted for entry in _something_labels(directory, part)]
        there = {Path(file).stem: file for file in _files(directory, (".webm",))}
        found = [(there[number], text) for number, text in entries if number in there]
        missing = [number for number, _ in entries if number not in there]
        if not found:
            raise errors.UserError(
                f"none of the {len(entries)} videos of split {split!r} ({missing[0]}.webm, ...) is in {directory}; "
                "unpack the archives there"
                if entries
                else f"the labels of split {split!r} in {directory} are empty; fetch them again"
            )
        if missing:
            logging.warning(
                "%s: %d of the %d videos of split %r are missing, the first is %s.webm",
                directory, len(missing), len(entries), split, missing[0],
            )  # fmt: skip
        super().__init__(directory, name, *zip(*found, strict=True))


class VideoFolder(_Human):
    """Every video below a folder, in order of its path, with `instructions.jsonl` if there is one."""

    def __init__(self, directory: str | Path, split: str, name: str | None = None):
        """
        Args:
            directory: of mp4, webm, mkv, mov or avi files, at any depth.
            split: "train", "val" or "all", see `recordings.of_split`.
            name: of the dataset; None makes one from the folder's.

        Raises:
            UserError: no video is there, or the instructions are malformed.
        """
        directory = _existing(directory)
        files = sorted(_files(directory, SUFFIXES), key=pictures.natural)
        if not files:
            raise errors.UserError(f"no videos ({', '.join(SUFFIXES)}) in {directory}")
        texts = _texts(directory, files)
        chosen = _of_split(files, split)
        name = name or slug(directory.name)
        super().__init__(directory, name, [files[i] for i in chosen], [texts[i] for i in chosen])


class FrameFolders(_Human):
    """Every folder of images below a folder is one video, as official LAPA has them.

    With `instructions.jsonl` if there is one; its "file" is the folder of a video.
    """

    def __init__(self, directory: str | Path, split: str, rate: float | None, name: str | None = None):
        """
        Args:
            directory: of folders such as `CLIP/img_00001.jpg`, at any depth.
            split: "train", "val" or "all", see `recordings.of_split`.
            rate: images a second.
            name: of the dataset; None makes one from the folder's.

        Raises:
            UserError: no image is there, the rate is missing, or the instructions are malformed.
        """
        directory = _existing(directory)
        folders = sorted({str(Path(f).parent) for f in _files(directory, pictures.SUFFIXES)}, key=pictures.natural)
        if not folders:
            raise errors.UserError(f"no folders of images in {directory}")
        if rate is None or not rate > 0:
            raise errors.UserError(
                f"images in {directory} have no rate of their own and data.rate is {rate}; give frames a second"
            )
        self.rate = float(rate)
        texts = _texts(directory, folders)
        chosen = _of_split(folders, split)
        name = name or slug(directory.name)
        super().__init__(directory, name, [folders[i] for i in chosen], [texts[i] for i in chosen])

    def __getitem__(self, index: int) -> recordings.Recording:
        recording = super().__getitem__(index)
        count = len(pictures.image_files(recording.footage["image_primary"].path))
        times = np.arange(count) / self.rate
        return recordings.Recording(recording.id, recording.instruction, recording.footage, times)

    @functools.cached_property
    def fingerprint(self) -> str:
        images = (
            f"{folder}/{name}" for folder in self._files for name in pictures.image_files(self._directory / folder)
        )
        return _fingerprint(self._directory, images, (self.rate, self._files, self._texts))


def slug(text: str) -> str:
    """A dataset name made from any text: lower-case letters, digits and underscores."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "videos"
    return words if words[0].isalpha() else f"videos_{words}"


def _existing(directory: str | Path) -> Path:
    directory = Path(directory).expanduser().resolve()
    if not directory.is_dir():
        raise errors.UserError(f"no folder {directory}; check the path")
    return directory


def _files(directory: Path, suffixes: Sequence[str]) -> Iterator[str]:
    """Paths below `directory`, relative to it, without hidden files and folders."""
    seen = set()  # links can lead in circles
    for folder, below, names in os.walk(directory, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            if name.lower().endswith(tuple(suffixes)) and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), directory)


def _of_split(ids: Sequence[str], split: str) -> list[int]:
    if split not in ("train", "val", "all"):
        raise errors.UserError(f"no split {split!r}; choose 'train', 'val' or 'all'")
    return recordings.of_split(ids, split)


def _fingerprint(directory: Path, files: Iterable[str], other: object) -> str:
    digest = hashlib.sha256(repr(other).encode())
    for file in files:
        try:
            stat = os.stat(directory / file)
            size, changed = stat.st_size, stat.st_mtime_ns
        except OSError:  # a broken link, for instance; whoever decodes it will say so
            size = changed = -1
        digest.update(f"{file}\0{size}\0{changed}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _labels(directory: Path, split: str) -> Path | None:
    official = _SOMETHING_SPLITS[split]
    paths = (directory / name.format(official) for name in _SOMETHING_LABELS)
    return next((path for path in paths if path.is_file()), None)


def _something_labels(directory: Path, split: str) -> list[tuple[str, str]]:
    """(id, instruction) of each video."""
    if split not in _SOMETHING_SPLITS:
        raise errors.UserError(f"no split {split!r} in Something-Something; choose 'train', 'val' or 'test'")
    path = _labels(directory, split)
    if path is None:
        file = _SOMETHING_LABELS[0].format(_SOMETHING_SPLITS[split])
        raise errors.UserError(f"no {file} in {directory}, nor in its labels/; put the label files there")
    entries = instructions.load_json(path)
    if not isinstance(entries, list):
        raise errors.UserError(f"{path} holds a JSON {type(entries).__name__} instead of a list; fetch it again")
    for i, entry in enumerate(entries):
        fits = isinstance(entry, dict) and isinstance(entry.get("id"), str | int)
        if not fits or not isinstance(entry.get("label", "" if split == "test" else None), str):
            raise errors.UserError(f'{path}, entry {i}: needs an "id" and a "label"; fetch the file again')
    return [(str(entry["id"]), entry.get("label", "")) for entry in entries]


def _texts(directory: Path, files: Sequence[str]) -> list[str]:
    """The instruction of each file, "" where there is none; they are listed by path or by name."""
    path = instructions.find(directory)
    if path is None:
        return [""] * len(files)
    by_path, by_name = set(files), {}
    for file in files:
        by_name.setdefault(os.path.basename(file), []).append(file)
    found, strangers = {}, []
    for key, text in instructions.read(path).items():
        matches = [key] if key in by_path else by_name.get(key, [])
        if len(matches) > 1:
            raise errors.UserError(f"{path}: {key} could be {matches[0]} or {matches[1]}; write the whole path")
        strangers += [] if matches else [key]
        found.update({match: text for match in matches})
    if strangers:
        logging.warning("%s: %d names have no file here, the first is %s", path, len(strangers), strangers[0])
    if without := [file for file in files if file not in found]:
        logging.warning("%s: %d files have no instruction, the first is %s", path, len(without), without[0])
    return [found.get(file, "") for file in files]
