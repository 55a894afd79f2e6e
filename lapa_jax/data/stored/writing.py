"""RLDS written without TensorFlow, in a form that every TFDS reader reads.

A dataset is ready when its folder holds `lapa.json`, which is written last.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import example_serializer

from lapa_jax import errors
from lapa_jax.data.stored import storage

# One record a chunk, as it is: a frame inside a record can then be read by its position in the file.
_OPTIONS = "group_size:1,uncompressed"
# Arrays of a step that are no observation.
_OF_STEP = ("action", "reward", "discount")
_TYPES = {str: tfds.features.Text(), float: np.float32, int: np.int64, bool: np.bool_}


def episode_features(
    images: Mapping[str, tuple[int, int, int]],
    arrays: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, type],
) -> tfds.features.FeaturesDict:
    """The usual RLDS features.

    Args:
        images: name -> (H, W, C) of `steps/observation/NAME`, handed over as JPEG bytes.
        arrays: name -> shape in one step, float32. "action", "reward" and "discount" belong to the
            step, the others to its observation.
        metadata: name -> str, float, int or bool, of `episode_metadata/NAME`.
    """
    features = tfds.features
    observation = {k: features.Image(shape=v, encoding_format="jpeg") for k, v in images.items()}
    tensors = {k: features.Tensor(shape=v, dtype=np.float32) for k, v in arrays.items()}
    observation.update({k: v for k, v in tensors.items() if k not in _OF_STEP})
    steps = {
        "observation": observation,
        **{k: v for k, v in tensors.items() if k in _OF_STEP},
        "language_instruction": features.Text(),
        **{k: np.bool_ for k in ("is_first", "is_last", "is_terminal")},
    }
    of_episode = {k: _TYPES[v] for k, v in metadata.items()}
    return features.FeaturesDict({"steps": features.Dataset(steps), "episode_metadata": of_episode})


def episode_example(
    images: Mapping[str, Sequence[bytes]],
    arrays: Mapping[str, np.ndarray],
    instruction: str,
    metadata: Mapping[str, Any],
    terminal: bool,
) -> dict[str, Any]:
    """An example of `episode_features`: T images a camera, T rows an array.

    `terminal` says whether the last step ends the task, or only the recording.
    """
    length = len(next(iter(images.values())))
    steps = [
        {
            "observation": {
                **{k: v[t] for k, v in images.items()},
                **{k: v[t] for k, v in arrays.items() if k not in _OF_STEP},
            },
            **{k: v[t] for k, v in arrays.items() if k in _OF_STEP},
            "language_instruction": instruction,
            "is_first": t == 0,
            "is_last": t == length - 1,
            "is_terminal": terminal and t == length - 1,
        }
        for t in range(length)
    ]
    return {"steps": steps, "episode_metadata": dict(metadata)}


def shard_path(directory: Path, name: str, split: str, index: int, count: int) -> Path:
    """Where TFDS looks for shard `index` of `count`."""
    return directory / f"{name}-{split}.array_record-{index:05d}-of-{count:05d}"


def write_shard(
    path: Path, features: tfds.features.FeaturesDict, examples: Iterable[Mapping[str, Any]]
) -> tuple[int, int]:
    """Writes the examples one by one; the file is there when it is whole, or not at all.

    Equal examples give equal bytes, in any process. Encoded images are stored as they are.

    Returns:
        (records, bytes of records).
    """
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    protos = (serializer.get_tf_example(features.encode_example(example)) for example in examples)
    # Maps have no order otherwise.
    return write_records(path, (proto.SerializeToString(deterministic=True) for proto in protos))


def write_records(path: Path, records: Iterable[bytes]) -> tuple[int, int]:
    """Writes serialized examples, as `write_shard` does."""
    partial = storage.partial_name(path)
    count = size = 0
    writer = array_record_module.ArrayRecordWriter(str(partial), _OPTIONS)
    try:
        for record in records:
            with _writing(path):
                writer.write(record)
            count, size = count + 1, size + len(record)
        with _writing(path):
            writer.close()
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(RuntimeError):
            writer.close()
        partial.unlink(missing_ok=True)
        raise
    return count, size


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split(";")[0]
        raise errors.UserError(f"{path} cannot be written ({reason}); make room and run again") from error


def finish(
    directory: Path,
    features: tfds.features.FeaturesDict,
    shards: Mapping[str, Sequence[tuple[int, int]]],
    metadata: Mapping[str, Any],
    description: str = "",
) -> None:
    """Writes what TFDS needs beside the shards, then `lapa.json`.

    Args:
        directory: a version folder that holds every shard.
        features: of the shards.
        shards: split -> what `write_shard` returned for each of its shards, in their order.
        metadata: for `lapa.json`; JSON can hold it. "name" is the dataset's, as in `shard_path`.
    """
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=metadata["name"], filetype_suffix="array_record"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[records for records, _ in found],
            num_bytes=sum(size for _, size in found),
            filename_template=template.replace(split=split),
        )
        for split, found in shards.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(directory),
        features=features,
        split_infos=splits,
        description=description,
        check_data=False,  # that would need TensorFlow
    )
    storage.write_json(directory / storage.READY, metadata)
