"""Published trajectories with their latent actions, written back as RLDS for any reader.

Every record keeps its bytes and gets one more feature, `steps/latent_action` int32[N]: the codes of the
pair that begins at the step, -1 where no pair does. `lapa.json` says what the codes were made from.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import latents as latents_lib
from lapa_jax.data.stored import construction, example, index, storage, writing

FEATURE = "latent_action"
NO_PAIR = -1
Labelled = tuple[episodes_lib.Episodes, latents_lib.Latents]


def write(
    directory: str | Path,
    splits: Mapping[str, Labelled],
    *,
    episodes_per_shard: int = 128,
    process_index: int = 0,
    process_count: int = 1,
) -> Path:
    """Writes `directory/NAME/1.0.0`, or goes on with it after a crash.

    Args:
        splits: split -> episodes of `rlds.open_episodes` and their codes; all with the same features.
        process_index: this process writes shards i, i + process_count, ...; the one that finds all of
            them there finishes the folder.

    Returns:
        The folder; it is finished when it holds `lapa.json`.

    Raises:
        UserError: episodes that are not of RLDS, codes of other episodes, or a folder of something else.
    """
    task = _Task(dict(splits), episodes_per_shard)
    folder = Path(directory).resolve() / task.name / "1.0.0"
    built = construction.Construction(folder, task.plan())
    built.claim()
    shards = [(split, i) for split in task.splits for i in range(task.count(split))]
    for split, i in shards[process_index::process_count]:
        if not built.is_done(f"{split}-{i}"):
            path = writing.shard_path(folder, task.name, split, i, task.count(split))
            records, size = writing.write_records(path, task.records(split, i))
            built.done(f"{split}-{i}", {"records": records, "bytes": size})
    if all(built.is_done(f"{split}-{i}") for split, i in shards) and not built.finished:
        _finish(task, built)
    return folder


@dataclasses.dataclass(frozen=True)
class _Task:
    splits: Mapping[str, Labelled]
    per_shard: int

    def __post_init__(self):
        for episodes, labels in self.splits.values():
            if labels.provenance.dataset != episodes.fingerprint:
                raise errors.UserError(
                    f"{episodes.name}: the codes are of dataset {labels.provenance.dataset}, the episodes are "
                    f"{episodes.fingerprint}; label these episodes"
                )
        if len({storage.read_text(storage.join(source, "features.json")) for source in self.sources}) != 1:
            raise errors.UserError("the splits have different features; write each into a folder of its own")

    @property
    def sources(self) -> list[str]:
        """Folder of each split as it was published; decoded videos have one a split."""
        return [self.index(split).paths[0].rsplit("/", 1)[0] for split in self.splits]

    @property
    def source(self) -> str:
        return self.sources[0]

    @property
    def info(self) -> dict[str, Any]:
        return json.loads(storage.read_text(storage.join(self.source, "dataset_info.json")))

    @property
    def name(self) -> str:
        return self.info["name"]

    def index(self, split: str) -> index.Index:
        episodes = self.splits[split][0]
        found = getattr(episodes.cameras[episodes.camera], "index", None)
        if found is None:
            raise errors.UserError(f"{episodes.name}: only episodes of RLDS can be written back; open them again")
        return found

    def count(self, split: str) -> int:
        return -(-len(self.splits[split][0]) // self.per_shard)

    def plan(self) -> dict[str, Any]:
        parts = {
            split: {"provenance": dataclasses.asdict(labels.provenance), "episodes": len(episodes)}
            for split, (episodes, labels) in self.splits.items()
        }
        return {"labels": parts, "episodes_per_shard": self.per_shard, "sources": self.sources}

    def records(self, split: str, shard: int) -> Iterator[bytes]:
        episodes, labels = self.splits[split]
        stored, skipped = self.index(split), episodes.cameras[episodes.camera].skipped
        for e in range(shard * self.per_shard, min((shard + 1) * self.per_shard, len(episodes))):
            number, codes = int(episodes.stored[e]), labels.codes(e)
            rows = np.full((int(stored.episodes["steps"][number]), labels.code_length), NO_PAIR, np.int32)
            rows[skipped : skipped + len(codes)] = codes
            try:
                yield example.with_ints(stored.record(number), f"steps/{FEATURE}", rows)
            except example.Malformed as error:
                raise errors.UserError(
                    f"{episodes.name}: episode {number}: {error}; it was labelled before"
                ) from error


def _finish(task: _Task, built: construction.Construction) -> None:
    lengths = {}
    for split in task.splits:
        notes = built.notes([f"{split}-{i}" for i in range(task.count(split))])
        if notes is None:  # another process was first
            return
        lengths[split] = notes
    features = json.loads(storage.read_text(storage.join(task.source, "features.json")))
    (code_length,) = {labels.code_length for _, labels in task.splits.values()}
    _add_feature(features, code_length)
    info = task.info | {
        "fileFormat": "array_record",
        "splits": [_split(name, notes) for name, notes in lengths.items()],
    }
    storage.write_json(built.folder / "features.json", features)
    storage.write_json(built.folder / "dataset_info.json", info)
    own = storage.join(task.source, storage.READY)
    about = json.loads(storage.read_text(own)) if storage.exists(own) else {"name": task.name}
    storage.write_json(built.folder / storage.READY, about | built.plan)
    built.clear()


def _split(name: str, notes: list[Mapping[str, int]]) -> dict[str, Any]:
    return {
        "name": name,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(note["records"]) for note in notes],
        "numBytes": str(sum(note["bytes"] for note in notes)),
    }


def _add_feature(tree: dict[str, Any], code_length: int) -> None:
    """Adds the codes to the steps of a features.json, in its own form."""
    kind = "tensorflow_datasets.core.features.tensor_feature.Tensor"
    if "type" in tree:
        steps = tree["content"]["steps"]["content"]["feature"]["content"]
        steps[FEATURE] = {"type": kind, "content": {"shape": [code_length], "dtype": "int32", "encoding": "none"}}
        return
    steps = tree["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    shape = {"dimensions": [str(code_length)]}
    steps[FEATURE] = {
        "pythonClassName": kind,
        "tensor": {"shape": shape, "dtype": "int32", "encoding": "none"},
        "description": f"Latent action of the pair that begins here; {NO_PAIR} where none does.",
    }
