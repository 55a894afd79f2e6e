"""Encoded frames that do not fit, are damaged, or should not be written: each is named, with the way out."""

import dataclasses

import numpy as np
import pytest
from test_encoded import ENCODER, fake_features, fake_ids, write

from lapa_jax import errors
from lapa_jax.data import encoded, shards
from lapa_jax.data.stored import rows, storage


@pytest.fixture
def written(video_episodes, tmp_path):
    return write(video_episodes, tmp_path / "ids", num_codes=512)


REFUSED = {
    "provenance": (dict(provenance={"kind": "fake", "step": 200}), "provenance .*100.*not .*200.*another folder"),
    "image size": (dict(image_size=16), "image_size None, not 16"),
    "dtype": (dict(dtype="float32"), "dtype 'float16', not 'float32'"),
    "num_codes": (dict(num_codes=1024), "num_codes 512, not 1024"),
    "shards": (dict(frames_per_shard=30), "frames_per_shard 10, not 30"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_of_something_else_is_refused(case, written, video_episodes):
    changes, message = REFUSED[case]
    with pytest.raises(errors.UserError, match=f"holds encoded frames with {message}"):
        write(video_episodes, written, **{"num_codes": 512} | changes)


def test_other_episodes_and_another_encoder_are_refused(written, video_episodes, robot_episodes, tmp_path):
    with pytest.raises(errors.UserError, match=f"{video_episodes.source}', and '{robot_episodes.source}'"):
        encoded.open_encoded(written, robot_episodes)
    with pytest.raises(errors.UserError, match="with dataset .*choose another folder"):
        write(robot_episodes, written, num_codes=512)
    assert encoded.open_encoded(written, video_episodes, ENCODER).provenance == ENCODER
    with pytest.raises(errors.UserError, match="of provenance .*'step': 100.*'step': 3} is wanted"):
        encoded.open_encoded(written, video_episodes, {"kind": "fake", "step": 3})
    with pytest.raises(errors.UserError, match="no encoded frames at .*encode_frames"):
        encoded.open_encoded(tmp_path / "nothing", video_episodes)


def test_shards_without_their_record_are_not_taken_for_ours(written, video_episodes):
    (written / "encoded.json").unlink()
    with pytest.raises(errors.UserError, match="00000-of-00004.npy is there, and nothing says"):
        write(video_episodes, written, provenance={"kind": "other"}, num_codes=512)


def damage(path, kind):
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[:-1])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(b"hello".ljust(len(data)))
    elif kind == "plain npy":
        np.save(path, np.zeros(3))
    elif kind == "of another shape":
        rows.Rows("uint16", (4,)).write(path, [np.zeros((10, 4), np.uint16)], 10)
    elif kind == "of another dtype":
        rows.Rows("float16", (3,)).write(path, [np.zeros((10, 3), np.float16)], 10)


DAMAGES = ("missing", "cut", "empty", "text", "plain npy", "of another shape", "of another dtype")


@pytest.mark.parametrize("name", ["frames-00000-of-00004.npy", "frames-00001-of-00004.npy", "episodes.npy"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_named_and_made_again(kind, name, written, video_episodes):
    damage(written / name, kind)
    with pytest.raises(errors.UserError, match=f"{name} .*remove it, and run .* again") as caught:
        encoded.open_encoded(written, video_episodes)
    assert "\n" not in str(caught.value)
    (written / name).unlink(missing_ok=True)
    storage.forget()
    write(video_episodes, written, num_codes=512)
    found = encoded.open_encoded(written, video_episodes)
    np.testing.assert_array_equal(found.frame(1, 2), fake_ids(video_episodes.frame(1, 2)[None])[0])


def test_a_changed_byte_is_noticed_when_its_frame_is_read(written, video_episodes):
    path = written / "frames-00001-of-00004.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    found = encoded.open_encoded(written, video_episodes)
    place = 1, 19 - int(video_episodes.lengths[0])  # the last row of that file
    found.frame(1, place[1] - 1)
    with pytest.raises(errors.UserError, match="00001-of-00004.npy is damaged at row 9: remove it"):
        found.frame(*place)
    path.unlink()
    storage.forget()
    with pytest.raises(errors.UserError, match="cannot read .*00001-of-00004.npy: No such file"):
        found.frame(*place)


WRONG = {
    "ids too large": (dict(num_codes=400), fake_ids, r"ids \d+..\d+ are outside 0..399"),
    "negative": ({}, lambda x: fake_ids(x) - 600, r"ids -\d+..-?\d+ are outside"),
    "not finite": (dict(dtype="float32"), lambda x: fake_features(x) / 0, "not finite"),
    "too large": ({}, lambda x: 1e6 * fake_features(x), "too large for float16: store float32"),
    "rows": ({}, lambda x: fake_ids(x)[:-1], r"7 rows went in and an array of shape \(6, 3\) came out"),
    "no frame a file": (dict(frames_per_shard=0), fake_ids, "0 frames a file: use 1 or more"),
    "no dtype": (dict(dtype="float64"), fake_features, "dtype 'float64'.*choose one of float16"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_an_encoder_may_not_give(case, video_episodes, tmp_path):
    changes, encode, message = WRONG[case]
    with pytest.raises(errors.UserError, match=message):
        write(video_episodes, tmp_path, encode, **changes)
    assert not list(tmp_path.glob("*.npy"))


def test_the_shape_may_not_change(video_episodes, tmp_path):
    calls = []

    def encode(frames):
        calls.append(frames)
        return fake_ids(frames)[:, : 4 - len(calls)]

    with pytest.raises(errors.UserError, match=r"shape=\(2,\).* among .*shape=\(3,\)"):
        write(video_episodes, tmp_path, encode)


def test_a_full_disk_is_named(video_episodes, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(errors.UserError, match="no room for .*frames-00000-of-00004.npy: free some"):
        write(video_episodes, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished.json"]
    monkeypatch.undo()
    write(video_episodes, tmp_path)
    assert encoded.finished(tmp_path)


def test_episodes_without_a_frame(video_episodes, tmp_path):
    empty = dataclasses.replace(video_episodes, lengths=np.zeros(3, np.int64))
    write(empty, tmp_path)
    with pytest.raises(errors.UserError, match="holds no frame"):
        encoded.open_encoded(tmp_path, empty)
