"""The labelled set: written once, continued after a crash, refused for other episodes."""

import dataclasses

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import latents


def fake_label(frame, next_frame):
    """Two codes 0..7 that depend on both frames."""
    sums = [image.reshape(len(image), -1).sum(1) for image in (frame, next_frame)]
    return np.stack(sums, axis=1) % 8


@pytest.fixture
def provenance(video_episodes):
    checkpoint = {"path": "runs/laq", "step": 100, "hash": "abc"}
    return latents.Provenance(checkpoint, video_episodes.fingerprint, 4, 0.4, 2, 8)


@pytest.mark.parametrize("episodes_per_shard", [1, 2, 128])
def test_round_trip(video_episodes, provenance, tmp_path, episodes_per_shard):
    latents.write_latents(
        tmp_path, video_episodes, fake_label, provenance,
        batch_size=5, episodes_per_shard=episodes_per_shard,
    )
    read = latents.open_latents(tmp_path, video_episodes)
    assert read.provenance == provenance and (read.gap, read.code_length) == (4, 2)
    assert len(read) == len(video_episodes)
    for e, length in enumerate(video_episodes.lengths):
        codes = read.codes(e)
        assert codes.shape == (length - 4, 2) and codes.dtype == np.int32
        frames = np.stack([video_episodes.frame(e, t) for t in range(length)])
        np.testing.assert_array_equal(codes, fake_label(frames[:-4], frames[4:]))


def test_label_always_gets_full_batches(video_episodes, provenance, tmp_path):
    sizes = []

    def label(frame, next_frame):
        sizes.append((len(frame), len(next_frame)))
        return fake_label(frame, next_frame)

    latents.write_latents(tmp_path, video_episodes, label, provenance, batch_size=7)
    assert set(sizes) == {(7, 7)}


def test_a_crash_is_continued_and_a_finished_set_is_not_redone(
    video_episodes, provenance, tmp_path
):
    calls = []

    def label(frame, next_frame):
        if len(calls) == 2:
            calls.append("crash")
            raise KeyboardInterrupt
        calls.append("pairs")
        return fake_label(frame, next_frame)

    def write():
        latents.write_latents(
            tmp_path, video_episodes, label, provenance, batch_size=64, episodes_per_shard=1
        )

    with pytest.raises(KeyboardInterrupt):
        write()
    with pytest.raises(errors.UserError, match="not finished"):
        latents.open_latents(tmp_path, video_episodes)
    write()
    assert calls == ["pairs", "pairs", "crash", "pairs"]
    write()
    assert len(calls) == 4
    assert len(latents.open_latents(tmp_path, video_episodes)) == 3


def test_progress_tells_new_pairs_from_those_of_an_earlier_call(video_episodes, provenance, tmp_path):
    heard = []

    def write(label):
        latents.write_latents(
            tmp_path, video_episodes, label, provenance, batch_size=5, episodes_per_shard=1, num_threads=3,
            progress=lambda done, labelled: heard.append((done, labelled)),
        )

    def label(frame, next_frame):
        if sum(labelled for _, labelled in heard) >= video_episodes.lengths[0] - 4 and label.breaks:
            raise KeyboardInterrupt
        return fake_label(frame, next_frame)

    label.breaks = True
    with pytest.raises(KeyboardInterrupt):
        write(label)
    label.breaks = False
    first, heard[:] = sum(labelled for _, labelled in heard), []
    write(label)
    total = latents.num_pairs(video_episodes, 4)
    assert total == sum(int(n) - 4 for n in video_episodes.lengths)
    assert sum(done for done, _ in heard) == total
    assert sum(labelled for _, labelled in heard) == total - first


def test_processes_write_their_own_shards_and_the_last_one_finishes(
    video_episodes, provenance, tmp_path
):
    for process in (1, 0):
        with pytest.raises(errors.UserError):
            latents.open_latents(tmp_path, video_episodes)
        latents.write_latents(
            tmp_path, video_episodes, fake_label, provenance,
            episodes_per_shard=1, process_index=process, process_count=2,
        )
    assert len(latents.open_latents(tmp_path, video_episodes)) == 3


def test_episodes_too_short_for_a_pair_have_no_codes(video_episodes, provenance, tmp_path):
    gap = int(video_episodes.lengths.max()) - 1
    long = dataclasses.replace(provenance, gap=gap)
    latents.write_latents(tmp_path, video_episodes, fake_label, long)
    read = latents.open_latents(tmp_path, video_episodes)
    counts = [len(read.codes(e)) for e in range(len(read))]
    assert counts == [max(n - gap, 0) for n in video_episodes.lengths] and 0 in counts


def test_other_episodes_are_refused(video_episodes, robot_episodes, provenance, tmp_path):
    latents.write_latents(tmp_path, video_episodes, fake_label, provenance)
    with pytest.raises(errors.UserError, match=robot_episodes.fingerprint):
        latents.open_latents(tmp_path, robot_episodes)


def test_another_checkpoint_is_refused(video_episodes, provenance, tmp_path):
    latents.write_latents(tmp_path, video_episodes, fake_label, provenance)
    other = dataclasses.replace(provenance, checkpoint={"step": 200})
    with pytest.raises(errors.UserError, match="checkpoint.*another folder"):
        latents.write_latents(tmp_path, video_episodes, fake_label, other)


def test_a_missing_shard_is_noticed(video_episodes, provenance, tmp_path):
    latents.write_latents(tmp_path, video_episodes, fake_label, provenance, episodes_per_shard=1)
    next(tmp_path.glob("codes-00001*")).unlink()
    with pytest.raises(errors.UserError, match="shard is missing"):
        latents.open_latents(tmp_path, video_episodes)
    latents.write_latents(tmp_path, video_episodes, fake_label, provenance, episodes_per_shard=1)
    assert len(latents.open_latents(tmp_path, video_episodes)) == 3


def test_wrong_codes_are_refused(video_episodes, provenance, tmp_path):
    few = dataclasses.replace(provenance, num_codes=2)
    with pytest.raises(errors.UserError, match="num_codes"):
        latents.write_latents(tmp_path / "few", video_episodes, fake_label, few)
    long = dataclasses.replace(provenance, code_length=4)
    with pytest.raises(errors.UserError, match="code_length"):
        latents.write_latents(tmp_path / "long", video_episodes, fake_label, long)
    with pytest.raises(errors.UserError, match="label the episodes first"):
        latents.open_latents(tmp_path / "nothing", video_episodes)
