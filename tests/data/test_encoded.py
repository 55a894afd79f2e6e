"""Encoded frames: any of them in one read, written once, continued after a crash, refused elsewhere."""

import dataclasses
import json
import pickle

import ml_dtypes
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import encoded, episodes, latents, official_images, rlds, shards
from lapa_jax.data.stored import rows, storage

ENCODER = {"kind": "fake", "step": 100}


def fake_ids(frames):
    """Three ids 0..511 that depend on the frame."""
    sums = frames.reshape(len(frames), -1).astype(np.int64).sum(axis=1)
    return (sums[:, None] * [1, 3, 7]) % 512


def fake_features(frames):
    """float32[B, 4, 3]: mean colours of the quarters of a frame, row by row."""
    height, width = frames.shape[1] // 2, frames.shape[2] // 2
    quarters = frames.reshape(len(frames), 2, height, 2, width, 3).mean(axis=(2, 4))
    return (quarters / 255 - 0.3).astype(np.float32).reshape(len(frames), 4, 3)


def frames_of(video, e, image_size=None):
    return np.stack([encoded.read_frame(video, e, t, image_size) for t in range(video.lengths[e])])


def write(video, folder, encode=fake_ids, **changes):
    """With shards so small that episodes lie across them."""
    provenance = changes.pop("provenance", ENCODER)
    return encoded.write_encoded(
        folder, video, encode, provenance, **{"batch_size": 7, "frames_per_shard": 10} | changes
    )


@pytest.fixture
def written(video_episodes, tmp_path):
    return write(video_episodes, tmp_path / "ids", num_codes=512)


@pytest.mark.parametrize("frames_per_shard", [1, 10, 4096])
@pytest.mark.parametrize("num_codes, dtype", [(1 << 16, np.uint16), ((1 << 16) + 1, np.int32), (None, np.int32)])
def test_ids_of_every_frame(video_episodes, tmp_path, frames_per_shard, num_codes, dtype):
    write(video_episodes, tmp_path, num_codes=num_codes, frames_per_shard=frames_per_shard)
    found = encoded.open_encoded(tmp_path, video_episodes)
    assert (found.shape, found.dtype, found.num_codes) == ((3,), np.dtype(dtype), num_codes)
    assert found.provenance == ENCODER and len(found) == len(video_episodes)
    for e in range(len(video_episodes)):
        wanted = fake_ids(frames_of(video_episodes, e))
        ids = [found.frame(e, t) for t in range(video_episodes.lengths[e])]
        assert {each.dtype for each in ids} == {np.dtype(dtype)} and not any(each.flags.writeable for each in ids)
        np.testing.assert_array_equal(ids, wanted)


@pytest.mark.parametrize("dtype", encoded.FEATURES)
def test_features_are_stored_as_wanted(video_episodes, tmp_path, dtype):
    write(video_episodes, tmp_path, fake_features, dtype=dtype, image_size=16)
    found = encoded.open_encoded(tmp_path, video_episodes)
    assert (found.shape, found.dtype, found.image_size) == ((4, 3), rows.DTYPES[dtype], 16)
    for e in (0, 2):
        wanted = fake_features(frames_of(video_episodes, e, image_size=16)).astype(found.dtype)
        for t, values in enumerate(wanted):
            np.testing.assert_array_equal(found.frame(e, t), values, strict=True)


def test_numpy_reads_the_files(video_episodes, tmp_path):
    write(video_episodes, tmp_path, fake_features, dtype="bfloat16")
    file = np.load(tmp_path / "frames-00000-of-00004.npy", mmap_mode="r")
    wanted = fake_features(frames_of(video_episodes, 0)).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(file["bfloat16"][:9].view(ml_dtypes.bfloat16), wanted[:9])


def test_an_encoder_of_ours_is_shown_other_frames_than_a_published_one(video_episodes, tmp_path):
    pytest.importorskip("cv2")
    write(video_episodes, tmp_path, image_size=24, resize="official")
    found = encoded.open_encoded(tmp_path, video_episodes)
    frames = [official_images.squared(video_episodes.frame(1, t), 24) for t in range(4)]
    np.testing.assert_array_equal([found.frame(1, t) for t in range(4)], fake_ids(np.stack(frames)))
    with pytest.raises(errors.UserError, match="resize 'official', not 'antialias'; choose another folder"):
        write(video_episodes, tmp_path, image_size=24)
    ours = fake_ids(frames_of(video_episodes, 1, image_size=24)[:4])
    assert not np.array_equal(ours, fake_ids(np.stack(frames)))
    with pytest.raises(errors.UserError, match="resize 'nearest' at .* antialias, official"):
        encoded.read_frame(video_episodes, 0, 0, 24, "nearest")
    with pytest.raises(errors.UserError, match="resize 'official' at image size None"):
        encoded.read_frame(video_episodes, 0, 0, None, "official")


def test_the_encoder_always_gets_full_batches(video_episodes, tmp_path):
    sizes = []

    def encode(frames):
        sizes.append(frames.shape)
        return fake_ids(frames)

    write(video_episodes, tmp_path, encode, image_size=8)
    assert set(sizes) == {(7, 8, 8, 3)}


def test_worker_processes_get_a_copy(written, video_episodes):
    found = pickle.loads(pickle.dumps(encoded.open_encoded(written, video_episodes)))
    np.testing.assert_array_equal(found.frame(2, 5), fake_ids(video_episodes.frame(2, 5)[None])[0])


def test_some_episodes_find_their_frames_in_either_view(tabletop_dataset, tmp_path):
    video = rlds.open_episodes(tabletop_dataset, "labelled", view="video")
    robot = rlds.open_episodes(tabletop_dataset, "labelled", view="robot")
    few, held = robot.divided(1)
    write(video, tmp_path)
    for some, first in ((few, 0), (held, 1), (robot, 0), (video.decoded(), 0), (robot.chosen([2, 0], "two"), 2)):
        found = encoded.open_encoded(tmp_path, some)
        assert len(found) == len(some)
        last = int(some.lengths[0]) - 1
        np.testing.assert_array_equal(found.frame(0, last), fake_ids(video.frame(first, last)[None])[0])
        with pytest.raises(IndexError, match=f"step {last + 1} of an episode of {last + 1} steps"):
            found.frame(0, last + 1)
    other = tmp_path / "other"
    write(few, other)
    with pytest.raises(errors.UserError, match="holds 1 episodes and not episode 1 of tabletop: encode this split"):
        encoded.open_encoded(other, robot)


def crashing(calls, after):
    """An encoder that is killed in the call after so many."""

    def encode(frames):
        if len(calls) == after:
            calls.append("crash")
            raise KeyboardInterrupt
        calls.append("frames")
        return fake_ids(frames)

    return encode


def test_a_crash_is_continued_and_a_finished_set_is_not_redone(video_episodes, tmp_path):
    heard, calls = [], []

    def again():
        heard.clear()
        write(video_episodes, tmp_path, crashing(calls, 3), progress=lambda *count: heard.append(count))

    with pytest.raises(KeyboardInterrupt):
        again()
    assert [path.name for path in sorted(tmp_path.glob("*"))] == ["frames-00000-of-00004.npy", "unfinished.json"]
    with pytest.raises(errors.UserError, match="encoding in .* is not finished; run it again"):
        encoded.open_encoded(tmp_path, video_episodes)
    again()
    assert sum(done for done, _ in heard) == video_episodes.num_frames
    assert sum(made for _, made in heard) == video_episodes.num_frames - 10
    assert len(encoded.open_encoded(tmp_path, video_episodes)) == 3 and encoded.finished(tmp_path)
    count = len(calls)
    again()
    assert len(calls) == count and heard == [(10, 0)] * 3 + [(2, 0), (0, 0)]


def test_what_a_killed_run_left_half_written_is_removed(video_episodes, tmp_path):
    left = tmp_path / ".frames-00001-of-00004.npy.12345.partial"
    left.write_bytes(b"half")
    write(video_episodes, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["encoded.json", "episodes.npy", *(f"frames-0000{i}-of-00004.npy" for i in range(4))]


def test_processes_write_their_own_shards_and_the_last_one_finishes(video_episodes, tmp_path):
    for process in (2, 0, 1):
        with pytest.raises(errors.UserError):
            encoded.open_encoded(tmp_path, video_episodes)
        write(video_episodes, tmp_path, process_index=process, process_count=3)
    found = encoded.open_encoded(tmp_path, video_episodes)
    np.testing.assert_array_equal(found.frame(2, 9), fake_ids(video_episodes.frame(2, 9)[None])[0])


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


def test_folders_are_those_of_latent_actions(video_episodes, robot_episodes, written):
    assert encoded.folder is latents.folder
    two = episodes.Mixture((video_episodes, robot_episodes), (1.0, 1.0))
    assert encoded.folder("root", "val", two, 1).as_posix() == "root/val/1-tabletop"
    assert encoded.folder("root", "val", episodes.as_mixture(video_episodes), 0).as_posix() == "root/val"
    plan = json.loads((written / "encoded.json").read_text())
    assert plan["num_frames"] == video_episodes.num_frames and plan["provenance"] == ENCODER
