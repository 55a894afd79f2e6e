"""The labelled set of stage 2: latent actions of every frame pair, on disk; one ArrayRecord record an episode."""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import shards

LATENTS = shards.Kind("latents.json", "latent actions", "labelling", "label the episodes")
folder, finished = shards.folder, LATENTS.finished
# (frame uint8[B, H, W, 3], next_frame uint8[B, H, W, 3]) -> int[B, N], or anything that becomes such an array
Label = Callable[[np.ndarray, np.ndarray], Any]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What the codes were made from; a folder holds codes of one provenance only.

    Attributes:
        checkpoint: of the LAQ: its path, step and the hash of its config.
        dataset: fingerprint of the episodes.
        gap: steps between the two frames of a pair.
        gap_seconds: the same in seconds.
        code_length: codes a pair, N.
        num_codes: codes are 0..num_codes-1.
    """

    checkpoint: Mapping[str, Any]
    dataset: str
    gap: int
    gap_seconds: float
    code_length: int
    num_codes: int


@dataclasses.dataclass(frozen=True)
class Latents:
    """Codes of every pair of every episode, in the order of the episodes."""

    provenance: Provenance
    _codes: tuple[np.ndarray, ...] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def gap(self) -> int:
        return self.provenance.gap

    @property
    def code_length(self) -> int:
        return self.provenance.code_length

    @property
    def num_codes(self) -> int:
        return self.provenance.num_codes

    def codes(self, episode: int) -> np.ndarray:
        """int32[max(T - gap, 0), N]: row t is the pair (t, t + gap)."""
        return self._codes[episode]


def write_latents(
    directory: str | Path,
    episodes: episodes_lib.Episodes,
    label: Label,
    provenance: Provenance,
    *,
    batch_size: int = 64,
    image_size: int | None = None,
    episodes_per_shard: int = 128,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    progress: shards.Progress = shards.silent,
) -> Path:
    """Labels all pairs of `episodes`; call it again after a crash and it continues.

    Every call of `label` gets `batch_size` pairs (the last is padded), so it compiles once; `num_threads` read
    the frames of the next batches meanwhile. Process p of P writes shards p, p + P, ...; the one that sees all
    shards finishes the folder. `progress` hears of pairs that are done, and how many of them just now.

    Raises:
        UserError: the folder holds codes of another provenance, or a code is out of range.
    """
    root, gap = Path(directory), provenance.gap
    plan = {**dataclasses.asdict(provenance), "num_episodes": len(episodes),
            "episodes_per_shard": episodes_per_shard}

    def read(batch: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        pairs = ((episodes.frame(e, t, image_size), episodes.frame(e, t + gap, image_size)) for e, t in batch)
        frame, next_frame = zip(*pairs, strict=True)
        return np.stack(frame), np.stack(next_frame)

    def write(path: Path, chosen: range) -> None:
        pairs = [(e, t) for e in chosen for t in range(_count(episodes, e, gap))]
        found = shards.results(label, read, pairs, batch_size, num_threads, progress)
        codes = np.concatenate([np.zeros((0, provenance.code_length), np.int32), *_checked(found, provenance)])
        _write_shard(path, np.split(codes, np.cumsum([_count(episodes, e, gap) for e in chosen])[:-1]))

    parts = shards.parts(root, "codes", "array_record", len(episodes), episodes_per_shard)
    todo = [
        shards.Shard(path, sum(_count(episodes, e, gap) for e in chosen), functools.partial(write, path, chosen))
        for path, chosen in parts.items()
    ]
    LATENTS.fill(root, plan, todo, process_index, process_count, progress)
    return root


def open_latents(directory: str | Path, episodes: episodes_lib.Episodes) -> Latents:
    """Reads the codes of `episodes`.

    Raises:
        UserError: nothing there, labelling not finished, or the codes are of other episodes.
    """
    root, plan = Path(directory), LATENTS.plan(directory)
    fields = {field.name: plan[field.name] for field in dataclasses.fields(Provenance)}
    if fields["dataset"] != episodes.fingerprint:
        raise errors.UserError(
            f"latent actions at {root} are of dataset {fields['dataset']} and the episodes are "
            f"{episodes.fingerprint}; label these episodes into another folder"
        )
    codes = [codes for path in sorted(root.glob("codes-*.array_record")) for codes in _read(path)]
    if len(codes) != len(episodes):
        raise errors.UserError(
            f"{root} holds codes of {len(codes)} episodes instead of {len(episodes)}: a shard is "
            "missing; label again, which makes it"
        )
    return Latents(Provenance(**fields), tuple(codes))


def num_pairs(episodes: episodes_lib.Episodes, gap: int) -> int:
    """Pairs `gap` steps apart."""
    return sum(_count(episodes, e, gap) for e in range(len(episodes)))


def _count(episodes: episodes_lib.Episodes, episode: int, gap: int) -> int:
    return max(int(episodes.lengths[episode]) - gap, 0)


def _checked(found: Iterable[np.ndarray], provenance: Provenance) -> Iterator[np.ndarray]:
    """Codes of one batch after another, as int32."""
    for codes in found:
        if codes.shape[1:] != (provenance.code_length,):
            raise errors.UserError(
                f"labels have shape {codes.shape[1:]} a pair instead of {(provenance.code_length,)}; "
                "set code_length to the checkpoint's"
            )
        if codes.min() < 0 or codes.max() >= provenance.num_codes:
            raise errors.UserError(
                f"codes {codes.min()}..{codes.max()} are outside 0..{provenance.num_codes - 1}; "
                "set num_codes to the checkpoint's"
            )
        yield codes.astype(np.int32)


def _write_shard(path: Path, codes: list[np.ndarray]) -> None:
    with shards.whole(path) as partial:
        writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
        for episode in codes:
            buffer = io.BytesIO()
            np.save(buffer, episode, allow_pickle=False)
            writer.write(buffer.getvalue())
        writer.close()


def _read(path: Path) -> list[np.ndarray]:
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        records = reader.read_all()
    finally:
        reader.close()
    return [np.load(io.BytesIO(record), allow_pickle=False) for record in records]
