"""Encoded frames: any of them in one read, written once, continued after a crash, refused elsewhere."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import encoded, episodes, latents, official_images, rlds
from lapa_jax.data.stored import rows

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


def test_folders_are_those_of_latent_actions(video_episodes, robot_episodes, written):
    assert encoded.folder is latents.folder
    two = episodes.Mixture((video_episodes, robot_episodes), (1.0, 1.0))
    assert encoded.folder("root", "val", two, 1).as_posix() == "root/val/1-tabletop"
    assert encoded.folder("root", "val", episodes.as_mixture(video_episodes), 0).as_posix() == "root/val"
    plan = json.loads((written / "encoded.json").read_text())
    assert plan["num_frames"] == video_episodes.num_frames and plan["provenance"] == ENCODER
