"""The labelled set of stage 2: latent actions of every frame pair, on disk.

One ArrayRecord record an episode. A folder is whole once it holds `latents.json`, which is written
last; `unfinished.json` marks one that labelling can still continue.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.stored import storage

_DONE, _UNFINISHED = "latents.json", "unfinished.json"
# (frame uint8[B, H, W, 3], next_frame uint8[B, H, W, 3]) -> int[B, N]
Label = Callable[[np.ndarray, np.ndarray], np.ndarray]


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


def folder(root: str | Path, split: str, mixture: episodes_lib.Mixture, member: int) -> Path:
    """Where the latents of a member of a mixture are: a dataset alone has the split's folder to itself."""
    place = Path(root) / split
    return place if len(mixture.members) == 1 else place / f"{member}-{mixture.members[member].name}"


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
    progress: Callable[[int, int], None] = lambda done, labelled: None,
) -> Path:
    """Labels all pairs of `episodes`; call it again after a crash and it continues.

    Every call of `label` gets `batch_size` pairs (the last is padded), so it compiles once; `num_threads` read
    the frames of the next batches meanwhile. Process p of P writes shards p, p + P, ...; the one that sees all
    shards finishes the folder. `progress` hears of pairs that are done, and how many of them just now.

    Raises:
        UserError: the folder holds codes of another provenance, or a code is out of range.
    """
    root = Path(directory)
    plan = {**dataclasses.asdict(provenance), "num_episodes": len(episodes),
            "episodes_per_shard": episodes_per_shard}
    if _begin(root, plan):
        return root
    num_shards = -(-len(episodes) // episodes_per_shard)
    paths = [root / f"codes-{i:05d}-of-{num_shards:05d}.array_record" for i in range(num_shards)]
    for shard in range(process_index, num_shards, process_count):
        first = shard * episodes_per_shard
        chosen = range(first, min(first + episodes_per_shard, len(episodes)))
        pairs = _pairs(episodes, chosen, provenance.gap)
        if paths[shard].exists():
            progress(len(pairs), 0)
            continue
        read = functools.partial(_read_pairs, episodes, provenance.gap, batch_size, image_size)
        batches = _ahead(read, [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)], num_threads)
        codes = [np.zeros((0, provenance.code_length), np.int32)]
        for kept, frame, next_frame in batches:
            codes.append(_checked(label(frame, next_frame), batch_size, provenance)[:kept])
            progress(kept, kept)
        counts = [_count(episodes, e, provenance.gap) for e in chosen]
        _write_shard(paths[shard], np.split(np.concatenate(codes), np.cumsum(counts)[:-1]))
    if all(path.exists() for path in paths):
        storage.write_json(root / _DONE, plan)
        (root / _UNFINISHED).unlink(missing_ok=True)
    return root


def finished(directory: str | Path) -> bool:
    """Whether all shards are there."""
    return (Path(directory) / _DONE).exists()


def open_latents(directory: str | Path, episodes: episodes_lib.Episodes) -> Latents:
    """Reads the codes of `episodes`.

    Raises:
        UserError: nothing there, labelling not finished, or the codes are of other episodes.
    """
    root = Path(directory)
    if not finished(root):
        if (root / _UNFINISHED).exists():
            raise errors.UserError(
                f"labelling in {root} is not finished; run it again and it continues"
            )
        raise errors.UserError(f"no latent actions at {root}; label the episodes first")
    plan = json.loads((root / _DONE).read_text())
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
            "missing; remove the folder and label again"
        )
    return Latents(Provenance(**fields), tuple(codes))


def _begin(root: Path, plan: Mapping[str, Any]) -> bool:
    """Claims the folder for `plan`; True when it is finished already."""
    for name in (_DONE, _UNFINISHED):
        if not (root / name).exists():
            continue
        found = json.loads((root / name).read_text())
        if different := [k for k in plan if found.get(k) != plan[k]]:
            key = different[0]
            raise errors.UserError(
                f"{root} holds latent actions with {key} {found.get(key)!r}, not {plan[key]!r}; "
                "choose another folder"
            )
        return name == _DONE
    root.mkdir(parents=True, exist_ok=True)
    storage.write_json(root / _UNFINISHED, plan)
    return False


def num_pairs(episodes: episodes_lib.Episodes, gap: int) -> int:
    """Pairs `gap` steps apart."""
    return sum(_count(episodes, e, gap) for e in range(len(episodes)))


def _count(episodes: episodes_lib.Episodes, episode: int, gap: int) -> int:
    return max(int(episodes.lengths[episode]) - gap, 0)


def _pairs(episodes: episodes_lib.Episodes, chosen: range, gap: int) -> list[tuple[int, int]]:
    return [(e, t) for e in chosen for t in range(_count(episodes, e, gap))]


def _read_pairs(
    episodes: episodes_lib.Episodes, gap: int, batch_size: int, image_size: int | None, batch: list[tuple[int, int]]
) -> tuple[int, np.ndarray, np.ndarray]:
    """(how many are real, frame, next_frame uint8[batch_size, H, W, 3])."""
    padded = batch + batch[-1:] * (batch_size - len(batch))
    frame = np.stack([episodes.frame(e, t, image_size) for e, t in padded])
    next_frame = np.stack([episodes.frame(e, t + gap, image_size) for e, t in padded])
    return len(batch), frame, next_frame


def _ahead(read: Callable, batches: Sequence[Any], num_threads: int) -> Iterator[Any]:
    """`read(batch)` of each, in order, at most `num_threads` + 1 of them ahead."""
    with concurrent.futures.ThreadPoolExecutor(max(num_threads, 1)) as pool:
        waiting = collections.deque()
        for batch in batches:
            waiting.append(pool.submit(read, batch))
            if len(waiting) > num_threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _checked(codes: np.ndarray, batch_size: int, provenance: Provenance) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.shape != (batch_size, provenance.code_length):
        raise errors.UserError(
            f"labels have shape {codes.shape} instead of {(batch_size, provenance.code_length)}; "
            "set code_length to the checkpoint's"
        )
    if codes.min() < 0 or codes.max() >= provenance.num_codes:
        raise errors.UserError(
            f"codes {codes.min()}..{codes.max()} are outside 0..{provenance.num_codes - 1}; "
            "set num_codes to the checkpoint's"
        )
    return codes.astype(np.int32)


def _write_shard(path: Path, codes: list[np.ndarray]) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
    for episode in codes:
        buffer = io.BytesIO()
        np.save(buffer, episode, allow_pickle=False)
        writer.write(buffer.getvalue())
    writer.close()
    os.replace(partial, path)


def _read(path: Path) -> list[np.ndarray]:
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        records = reader.read_all()
    finally:
        reader.close()
    return [np.load(io.BytesIO(record), allow_pickle=False) for record in records]
