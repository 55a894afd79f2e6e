"""The pipeline of Octo and OpenVLA, written anew with tf.data for pairs of frames.

The order of its steps and its options are theirs (octo/data/dataset.py, dlimp/dataset.py and
prismatic/vla/datasets/rlds/dataset.py): episodes from TFDS with the steps left encoded, flattened, shuffled
in a buffer of encoded frames, then decoded, resized and batched. Where they differ, or do work that a
pair of frames does not need (proprioception, instructions, padding, augmentation), the cheaper was taken.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class Settings:
    """What differs between the contestants.

    Attributes:
        split: of the dataset.
        gap: steps between the two frames.
        batch: pairs.
        size: side of the frames.
        buffer: of the shuffle, in pairs.
        resize: resize every frame by Lanczos3 after a decoder for any format, as both do also where the
            size is right already; otherwise decode as JPEG and leave the size.
        skip: pairs to leave out after the shuffle, before they are decoded.
    """

    split: str
    gap: int
    batch: int
    size: int
    buffer: int
    resize: bool
    skip: int = 0


def limit_threads(cores: int) -> None:
    """To be called before anything else; tf.data's own threads follow the cores this process may use."""
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    tf.config.threading.set_intra_op_parallelism_threads(cores)


def batches(directory: Path, settings: Settings) -> Iterator[dict[str, np.ndarray]]:
    """frame, next_frame uint8[B, H, W, 3], for ever."""
    builder = tfds.builder_from_directory(str(directory))
    dataset = builder.as_dataset(
        split=settings.split,
        shuffle_files=True,
        decoders={"steps": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(
            skip_prefetch=True,
            num_parallel_calls_for_interleave_files=tf.data.AUTOTUNE,
        ),
    )
    dataset = dataset.with_options(_options())
    dataset = dataset.map(lambda episode: _pairs(episode, settings.gap), num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.filter(lambda pairs: tf.shape(pairs["frame"])[0] > 0).repeat()
    dataset = dataset.interleave(
        tf.data.Dataset.from_tensor_slices, cycle_length=tf.data.AUTOTUNE, num_parallel_calls=tf.data.AUTOTUNE
    )
    dataset = dataset.shuffle(settings.buffer)
    if settings.skip:
        dataset = dataset.skip(settings.skip)
    decode = _decode_and_resize if settings.resize else _decode
    dataset = dataset.map(
        lambda pair: {name: decode(frame, settings.size) for name, frame in pair.items()},
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    dataset = dataset.batch(settings.batch).with_options(_ram_budget())
    return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _pairs(episode: dict, gap: int) -> dict:
    """The encoded frames of an episode, each with the one `gap` steps later."""
    frames = episode["steps"]["observation"]["image_0"]
    return {"frame": frames[:-gap], "next_frame": frames[gap:]}


def _decode_and_resize(encoded: tf.Tensor, size: int) -> tf.Tensor:
    image = tf.io.decode_image(encoded, expand_animations=False, dtype=tf.uint8)
    image = tf.image.resize(image, (size, size), method="lanczos3", antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return tf.ensure_shape(image, (size, size, 3))


def _decode(encoded: tf.Tensor, size: int) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_jpeg(encoded, channels=3), (size, size, 3))


def _options() -> tf.data.Options:
    """dlimp's."""
    options = tf.data.Options()
    options.autotune.enabled = True
    options.deterministic = False
    options.experimental_optimization.apply_default_optimizations = True
    options.experimental_optimization.map_fusion = True
    options.experimental_optimization.map_and_filter_fusion = True
    return options


def _ram_budget() -> tf.data.Options:
    """Octo's: 1 GB for what autotune may read ahead."""
    options = tf.data.Options()
    options.autotune.ram_budget = 1 << 30
    return options
