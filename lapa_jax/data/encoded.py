"""What a frozen encoder gives for every frame of a dataset, on disk: ids of a tokenizer, or features of a tower.

Frames are numbered episode by episode and cut into files of equally many (`stored/rows.py`), so that any frame is
one read. `episodes.npy` says which episodes of the source are there, int64[E, 2]: number in the source, frames.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import official_images, shards, transforms
from lapa_jax.data.stored import rows, storage

ENCODED = shards.Kind("encoded.json", "encoded frames", "encoding", "write them with experiments/encode_frames.py")
folder, finished = shards.folder, ENCODED.finished

FEATURES = ("float16", "bfloat16", "float32")
"""What features may be stored as; ids are uint16 where that is enough, or int32."""
RESIZES = ("antialias", "official")
"""How frames get to their size: as for models of ours, or as for the published ones (`official_images.squared`)."""

_EPISODES = "episodes.npy"

Encode = Callable[[np.ndarray], Any]
"""uint8[B, H, W, 3] -> ids int[B, P] or features float[B, P, D], or anything that becomes such an array."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What was encoded of some episodes, by frame. Can be pickled.

    Attributes:
        shape: of what one frame gives, (P,) or (P, D).
        dtype: of its values.
        provenance: what encoded it.
        image_size, resize: how frames were shown to it, see `read_frame`.
        num_codes: ids are below it; None where it is not known, and for features.
    """

    provenance: Mapping[str, Any]
    image_size: int | None
    resize: str
    num_codes: int | None
    _rows: rows.Rows = dataclasses.field(repr=False)
    _files: tuple[tuple[str, int], ...] = dataclasses.field(repr=False)
    _starts: np.ndarray = dataclasses.field(repr=False)
    _lengths: np.ndarray = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._rows.shape

    @property
    def dtype(self) -> np.dtype:
        return rows.DTYPES[self._rows.dtype]

    def frame(self, episode: int, t: int) -> np.ndarray:
        """What a frame gives, of `shape` and `dtype`; the array cannot be written to.

        Raises:
            UserError: the file is gone, or damaged.
        """
        if not 0 <= t < self._lengths[episode]:
            raise IndexError(f"step {t} of an episode of {self._lengths[episode]} steps")
        file, number = divmod(int(self._starts[episode]) + t, self._files[0][1])
        return self._rows.read(*self._files[file], number)


def write_encoded(
    directory: str | Path,
    episodes: episodes_lib.Episodes,
    encode: Encode,
    provenance: Mapping[str, Any],
    *,
    batch_size: int = 64,
    image_size: int | None = None,
    resize: str = "antialias",
    dtype: str = "float16",
    num_codes: int | None = None,
    frames_per_shard: int = 4096,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    progress: shards.Progress = shards.silent,
) -> Path:
    """Encodes all frames of `episodes`; call it again after a crash and it continues.

    Every call of `encode` gets `batch_size` frames (the last is padded), so it compiles once; `num_threads` read
    the next batches meanwhile. Process p of P writes shards p, p + P, ...; the one that sees all shards finishes
    the folder.

    Args:
        provenance: what encodes, as JSON; a folder holds values of one encoder only.
        resize: a name of `RESIZES`.
        dtype: of stored features, a name of `FEATURES`.
        num_codes: ids are below it.

    Raises:
        UserError: the folder is of another encoder or dataset; ids are out of range, features not finite or too
            large for `dtype`, or of another shape than before; the disk is full.
    """
    check_choices(image_size, resize, dtype)
    root, index, table = Path(directory), transforms.StepIndex(episodes.lengths), _table(episodes)
    plan = {
        "provenance": dict(provenance), "dataset": _source(episodes), "episodes": storage.digest(table.tolist()),
        "image_size": image_size, "resize": resize, "dtype": dtype, "num_codes": num_codes,
        "num_frames": len(index), "frames_per_shard": frames_per_shard,
    }  # fmt: skip

    def read(batch: Sequence[tuple[int, int]]) -> tuple[np.ndarray]:
        return (np.stack([read_frame(episodes, *at, image_size, resize) for at in batch]),)

    def write(path: Path, frames: range) -> None:
        found = shards.results(encode, read, [index[i] for i in frames], batch_size, num_threads, progress)
        _write_rows(path, (_stored(values, dtype, num_codes) for values in found), len(frames))

    parts = shards.parts(root, "frames", "npy", len(index), frames_per_shard)
    todo = [shards.Shard(path, len(part), functools.partial(write, path, part)) for path, part in parts.items()]
    todo.append(shards.Shard(root / _EPISODES, 0, lambda: _write_table(root / _EPISODES, table)))
    ENCODED.fill(root, plan, todo, process_index, process_count, progress, lambda: _kind(parts))
    return root


def check_choices(image_size: int | None, resize: str, dtype: str = "float16") -> None:
    """Raises UserError for what `write_encoded` cannot do."""
    if dtype not in FEATURES:
        raise errors.UserError(f"dtype {dtype!r} of stored features: choose one of {', '.join(FEATURES)}")
    if resize not in RESIZES or (resize == "official" and image_size is None):
        raise errors.UserError(
            f"resize {resize!r} at image size {image_size}: choose one of {', '.join(RESIZES)}, and a size"
        )


def check_decoded(resize: str, decode_once: bool) -> None:
    """Raises UserError where frames that are decoded once, to their last size, would be resized once more."""
    if resize == "official" and decode_once:
        raise errors.UserError(
            "frames are resized as published (encoder.resize=official), and data.decode_once resizes first: "
            "set --config.data.decode_once=False"
        )


def read_frame(
    episodes: episodes_lib.Episodes,
    episode: int,
    step: int,
    image_size: int | None,
    resize: str = "antialias",
    camera: str | None = None,
) -> np.ndarray:
    """uint8[H, W, 3]: a frame as an encoder is shown it.

    Raises:
        UserError: no such way to resize, or the official one without a size.
    """
    check_choices(image_size, resize)
    if resize == "official":
        return official_images.squared(episodes.frame(episode, step, camera=camera), image_size)
    return episodes.frame(episode, step, image_size, camera)


def open_encoded(
    directory: str | Path, episodes: episodes_lib.Episodes, provenance: Mapping[str, Any] | None = None
) -> Encoded:
    """What was encoded of `episodes`, which may be some of those that were, in either view.

    Args:
        provenance: of the encoder that is wanted; None: any.

    Raises:
        UserError: nothing there, not finished, of other episodes or another encoder, or a file is damaged.
    """
    root, plan = Path(directory), ENCODED.plan(directory)
    wanted = {"dataset": _source(episodes), "provenance": plan["provenance"] if provenance is None else provenance}
    for key, value in json.loads(json.dumps(wanted)).items():
        if plan[key] != value:
            raise errors.UserError(
                f"encoded frames at {root} are of {key} {plan[key]!r}, and {value!r} is wanted; encode these into "
                "another folder"
            )
    parts = shards.parts(root, "frames", "npy", plan["num_frames"], plan["frames_per_shard"])
    if not parts:
        raise errors.UserError(f"{root} holds no frame: its episodes are empty")
    kind = rows.Rows(plan["rows"]["dtype"], tuple(plan["rows"]["shape"]))
    for path, part in parts.items():
        kind.check(path, len(part))
    starts, lengths = _places(root, plan["episodes"], episodes)
    files = tuple((str(path), len(part)) for path, part in parts.items())
    choices = (plan[name] for name in ("provenance", "image_size", "resize", "num_codes"))
    return Encoded(*choices, kind, files, starts, lengths)


def _source(episodes: episodes_lib.Episodes) -> str:
    return episodes.source or episodes.fingerprint


def _table(episodes: episodes_lib.Episodes) -> np.ndarray:
    return np.stack([episodes.stored, episodes.lengths], axis=1).astype(np.int64)


def _write_rows(path: Path, blocks: Iterator[np.ndarray], count: int) -> None:
    """A shard; what it holds is what the first block is."""
    first = next(blocks)
    with shards.whole(path) as partial:
        rows.of_array(first).write(partial, itertools.chain([first], blocks), count)


def _kind(parts: Iterable[Path]) -> dict[str, Any]:
    """What the shards hold, as the first of them says."""
    first = next(iter(parts), None)
    return {} if first is None else {"rows": dataclasses.asdict(rows.of_file(first))}


def _write_table(path: Path, table: np.ndarray) -> None:
    with shards.whole(path) as partial, partial.open("wb") as file:
        np.save(file, table)


def _places(root: Path, digest: str, episodes: episodes_lib.Episodes) -> tuple[np.ndarray, np.ndarray]:
    """First frame and number of frames of each episode, int64[E] both."""
    path = root / _EPISODES
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise errors.UserError(f"{path} cannot be read: {rows.REMEDY}") from error
    if storage.digest(table.tolist()) != digest:
        raise errors.UserError(f"{path} is not what was written: {rows.REMEDY}")
    starts = dict(zip(table[:, 0].tolist(), (np.cumsum(table[:, 1]) - table[:, 1]).tolist(), strict=True))
    if missing := [number for number in episodes.stored.tolist() if number not in starts]:
        raise errors.UserError(
            f"{root} holds {len(table)} episodes and not episode {missing[0]} of {episodes.name}: encode this split"
        )
    return np.array([starts[number] for number in episodes.stored.tolist()], np.int64), episodes.lengths


def _stored(values: np.ndarray, dtype: str, num_codes: int | None) -> np.ndarray:
    """The values as they are stored."""
    if np.issubdtype(values.dtype, np.integer):
        bound = num_codes or 1 << 31
        if values.size and (values.min() < 0 or values.max() >= bound):
            raise errors.UserError(f"ids {values.min()}..{values.max()} are outside 0..{bound - 1}: give num_codes")
        return values.astype(rows.DTYPES["uint16" if bound <= 1 << 16 else "int32"])
    with np.errstate(over="ignore"):
        stored = values.astype(rows.DTYPES[dtype], copy=False)
    if not np.isfinite(stored).all():
        raise errors.UserError(f"the encoder gives features not finite, or too large for {dtype}: store float32")
    return stored
