"""What is written here is read by TFDS, without TensorFlow, and is the same in every process."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from lapa_jax import errors
from lapa_jax.data.stored import writing
from lapa_jax.data.video import pictures


def features():
    images = {"image_primary": (16, 16, 3), "image_wrist": (8, 8, 3)}
    return writing.episode_features(
        images, {"action": (2,), "proprio": (3,)}, {"id": str, "start": float, "n": int}
    )


def example(length, shade=0):
    images = {
        name: [pictures.jpeg(np.full((size, size, 3), shade + t, np.uint8), 95) for t in range(length)]
        for name, size in (("image_primary", 16), ("image_wrist", 8))
    }
    arrays = {"action": np.arange(2 * length), "proprio": np.arange(3 * length) + shade}
    arrays = {k: v.reshape(length, -1).astype(np.float32) for k, v in arrays.items()}
    metadata = {"id": f"clip {shade}", "start": 1.5, "n": length}
    return writing.episode_example(images, arrays, "push", metadata, terminal=True)


def write_dataset(root, shards=((3, 4), (), (2,))):
    folder = root / "toy" / "1.0.0"
    folder.mkdir(parents=True)
    found = [
        writing.write_shard(
            writing.shard_path(folder, "toy", "train", i, len(shards)), features(), [example(n, n) for n in lengths]
        )
        for i, lengths in enumerate(shards)
    ]
    writing.finish(folder, features(), {"train": found}, {"name": "toy", "rate_hz": 5.0}, description="Toys.")
    return folder


def test_round_trip_through_tfds(tmp_path):
    folder = write_dataset(tmp_path)
    builder = tfds.builder_from_directory(str(folder))
    assert (builder.name, builder.info.splits["train"].num_examples) == ("toy", 3)  # also with an empty shard
    decoders = {"steps": {"observation": {"image_primary": tfds.decode.SkipDecoding()}}}
    for episode, n in zip(builder.as_data_source("train", decoders=decoders), (3, 4, 2), strict=True):
        steps, expected = list(episode["steps"]), example(n, n)["steps"]
        assert len(steps) == n and episode["episode_metadata"]["id"] == f"clip {n}".encode()
        assert episode["episode_metadata"]["start"] == 1.5 and episode["episode_metadata"]["n"] == n
        for t, (step, written) in enumerate(zip(steps, expected, strict=True)):
            assert step["observation"]["image_primary"] == written["observation"]["image_primary"]
            assert step["observation"]["image_wrist"].shape == (8, 8, 3)
            np.testing.assert_array_equal(step["action"], written["action"])
            np.testing.assert_array_equal(step["observation"]["proprio"], written["observation"]["proprio"])
            assert step["language_instruction"] == b"push"
            flags = [bool(step[k]) for k in ("is_first", "is_last", "is_terminal")]
            assert flags == [t == 0, t == n - 1, t == n - 1]


def test_metadata_is_written_last(tmp_path):
    folder = write_dataset(tmp_path)
    assert json.loads((folder / "lapa.json").read_text()) == {"name": "toy", "rate_hz": 5.0}
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert max(times, key=times.get) == "lapa.json"
    assert {"features.json", "dataset_info.json"} < set(times)


def test_frames_lie_in_the_file_as_they_are(tmp_path):
    """Uncompressed: what an index of byte ranges rests on."""
    folder = write_dataset(tmp_path)
    contents = b"".join(path.read_bytes() for path in folder.glob("*array_record*"))
    for step in example(4, 4)["steps"]:
        assert step["observation"]["image_primary"] in contents


def test_bytes_do_not_depend_on_the_process(tmp_path):
    # Hashing of maps is seeded by the process; twice in this one would prove nothing.
    script = (
        "import pathlib, sys, test_writing\n"
        "test_writing.write_dataset(pathlib.Path(sys.argv[1]))\n"
        "assert not {'tensorflow', 'jax', 'torch'} & set(sys.modules)\n"
    )
    digests = []
    for i in range(3):
        root = tmp_path / str(i)
        here = str(Path(__file__).parent)
        subprocess.run([sys.executable, "-c", script, str(root)], check=True, cwd=here)
        paths = sorted((root / "toy/1.0.0").glob("toy-*"))
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert len(digests[0]) == 3 and digests[0] == digests[1] == digests[2]


def test_a_shard_is_there_when_it_is_whole(tmp_path):
    def breaks():
        yield example(2)
        raise errors.UserError("no more")

    with pytest.raises(errors.UserError, match="no more"):
        writing.write_shard(tmp_path / "shard", features(), breaks())
    assert not list(tmp_path.iterdir())
    assert writing.write_shard(tmp_path / "shard", features(), [example(2)])[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    reader = array_record_module.ArrayRecordReader(str(tmp_path / "shard"))
    assert reader.num_records() == 1 and "uncompressed" in reader.writer_options_string()
    reader.close()


def test_a_full_disk_is_noticed(tmp_path):
    script = (
        "import pathlib, resource, signal, sys, test_writing\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))  # stands for a full disk\n"
        "examples = (test_writing.example(200) for _ in range(9))\n"
        "test_writing.writing.write_shard(pathlib.Path(sys.argv[1]), test_writing.features(), examples)\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", script, str(tmp_path / "shard")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here)
    assert done.returncode and "UserError" in done.stderr and "shard cannot be written" in done.stderr
    assert not list(tmp_path.iterdir())


def test_wrong_shapes_are_refused(tmp_path):
    wrong = example(2)
    wrong["steps"][0]["action"] = np.zeros(5, np.float32)
    with pytest.raises(Exception, match="action"):
        writing.write_shard(tmp_path / "shard", features(), [wrong])
    assert not list(tmp_path.iterdir())
