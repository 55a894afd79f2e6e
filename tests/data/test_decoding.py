"""The frame at a time, of good files and of bad ones. Toy frames say in grey which they are."""

import itertools
import json
from pathlib import Path

import make_videos
import numpy as np
import pytest
from PIL import Image

from lapa_jax import errors
from lapa_jax.data.video import decoding, pictures, recordings

VIDEOS = Path(__file__).resolve().parents[3] / "shared/data/videos"
KINDS = (".webm", ".mp4", ".mkv", ".avi")


def read(path, times=None, *, start=0.0, picture=None, image_times=None, rate=10):
    """(frames, damage) at the times, or at a rate until the end."""
    footage = recordings.Footage(str(path), start)
    reader = decoding.open_footage(footage, picture or pictures.Picture(32), image_times)
    times = (k / rate for k in itertools.count()) if times is None else times
    return list(reader.at(times)), reader.damage


def numbers(frames):
    return [make_videos.number(frame) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_own_rate_gives_every_frame_once(tmp_path, kind):
    path = make_videos.write(tmp_path / f"a{kind}", make_videos.counters(30), rate=30)
    frames, damage = read(path, rate=30)
    assert numbers(frames) == list(range(30)) and not damage
    assert frames[0].shape == (32, 32, 3) and frames[0].dtype == np.uint8


@pytest.mark.parametrize("kind", KINDS)
def test_lower_and_higher_rates(tmp_path, kind):
    path = make_videos.write(tmp_path / f"a{kind}", make_videos.counters(30), rate=30)
    assert numbers(read(path, rate=10)[0]) == list(range(0, 30, 3))
    assert numbers(read(path, rate=60)[0]) == [i // 2 for i in range(60)]
    assert numbers(read(path, rate=4)[0]) == [0, 7, 15, 22]  # 0.25 s is in the middle of frame 7


def test_rates_that_milliseconds_cannot_express(tmp_path):
    path = make_videos.write(tmp_path / "a.webm", make_videos.counters(30), rate=30000 / 1001)
    assert numbers(read(path, rate=30000 / 1001)[0]) == list(range(30))


@pytest.mark.parametrize("kind", (".webm", ".mp4", ".mkv"))
def test_variable_rate_follows_presentation_time(tmp_path, kind):
    stamps = [0, 0.1, 0.15, 0.6, 0.7, 1.5]
    path = make_videos.write(tmp_path / f"a{kind}", make_videos.counters(6), times=stamps)
    shown = numbers(read(path)[0])
    assert shown[:15] == [0, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4]
    assert shown[15] == 5
    assert numbers(read(path, [0.14, 0.15, 0.59, 0.599, 0.61, 1.4])[0]) == [1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("kind", (*KINDS, ".ts"))
@pytest.mark.parametrize("start", (0.3, 0.75, 1.5, 2.0, 2.95))
def test_start_is_where_times_count_from(tmp_path, kind, start):
    frames = make_videos.counters(30)
    path = make_videos.write(tmp_path / f"a{kind}", frames, rate=10)
    expected = [int((start + k / 10) * 10 + 0.02) for k in range(30)]
    assert numbers(read(path, start=start)[0]) == [n for n in expected if n < 30]


def test_start_between_key_frames_of_a_file_without_index(tmp_path):
    options = {"cues_to_front": "0"}
    path = make_videos.write(tmp_path / "a.mkv", make_videos.counters(30), container_options=options)
    make_videos.truncate(path, 0.97)  # the index was at the end
    assert numbers(read(path, [0.0, 0.1], start=1.5)[0]) == [15, 16]


def test_a_wrong_time_stamp_does_not_give_copies_without_end(tmp_path):
    stamps = [0, 0.1, 0.2, 4000, 4000.1]
    path = make_videos.write(tmp_path / "a.mkv", make_videos.counters(5), times=stamps)
    frames, damage = read(path)
    assert numbers(frames) == [0, 1, 2] and "nothing new" in damage


def test_given_times_need_not_be_even(tmp_path):
    path = make_videos.write(tmp_path / "a.mp4", make_videos.counters(20))
    times = np.array([0.0, 0.05, 0.1, 0.1, 0.7, 1.9, 1.95, 2.5], np.float32)
    assert numbers(read(path, times)[0]) == [0, 0, 1, 1, 7, 19, 19]  # nothing is shown at 2.5


def test_a_frame_that_stays_is_the_same_object(tmp_path):
    path = make_videos.write(tmp_path / "a.mp4", make_videos.counters(3), rate=5)
    frames, _ = read(path)
    assert [a is b for a, b in itertools.pairwise(frames)] == [True, False, True, False, True]


@pytest.mark.parametrize("size", ((37, 51), (64, 33), (1, 99)))
def test_odd_sizes(tmp_path, size):
    path = make_videos.write(tmp_path / "a.mp4", make_videos.counters(4, size))
    assert numbers(read(path)[0]) == [0, 1, 2, 3]
    assert read(path, picture=pictures.Picture(20, "crop"))[0][0].shape == (20, 20, 3)


def quadrants():
    """Left red, right blue; the top quarter has green added."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0] = image[:, 32:, 2] = image[:12, :, 1] = 200
    return image


@pytest.mark.parametrize("rotation, turns", ((0, 0), (-90, -1), (90, 1), (180, 2)))
def test_rotation_is_applied(tmp_path, rotation, turns):
    # -90 is what a phone held upright writes: turn by 90 degrees clockwise to see it as it was.
    path = make_videos.write(tmp_path / "a.mp4", [quadrants()] * 3, rotation=rotation)
    (frame, *_), _ = read(path, picture=pictures.Picture(48, "whole"))
    expected = np.rot90(quadrants(), turns)
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 12  # chroma has half the resolution


def test_colours_survive(tmp_path):
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128), (250, 250, 250)]
    images = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    frames, _ = read(make_videos.write(tmp_path / "a.mp4", images))
    means = [frame.mean(axis=(0, 1)) for frame in frames]
    np.testing.assert_allclose(means, colours, atol=2.5)


def test_fits(tmp_path):
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 250  # what the central square shows
    path = make_videos.write(tmp_path / "a.mp4", [image] * 2)
    stretched, cropped, whole = (
        read(path, picture=pictures.Picture(20, fit))[0][0].astype(int) for fit in ("stretch", "crop", "whole")
    )
    assert cropped.shape == stretched.shape == (20, 20, 3) and whole.shape == (20, 40, 3)
    assert cropped[:, 1:-1].min() > 200
    assert stretched[:, :4].max() < 50 and stretched[:, 6:14].min() > 200
    assert read(path, picture=pictures.Picture(500, "whole"))[0][0].shape == (40, 80, 3)  # not enlarged
    with pytest.raises(errors.UserError, match="no fit 'squash'"):
        pictures.Picture(20, "squash")


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_no_video_are_named(tmp_path, kind):
    empty, text = tmp_path / f"empty{kind}", tmp_path / f"text{kind}"
    empty.touch()
    text.write_text("not a video\n" * 99)
    for path, reason in ((empty, "is empty"), (text, "cannot be opened"), (tmp_path / f"no{kind}", "cannot be")):
        with pytest.raises(errors.UserError, match=f"{path.name}.*{reason}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", (".mp4", ".webm"))
def test_sound_alone_is_no_video(tmp_path, kind):
    with pytest.raises(errors.UserError, match="holds no video"):
        read(make_videos.write_audio(tmp_path / f"a{kind}"))


@pytest.mark.parametrize("kind", (".webm", ".mkv", ".mp4", ".avi"))
def test_truncated_files_give_what_is_left(tmp_path, kind):
    frames = [make_videos.texture(48, 64, seed) for seed in range(30)]
    options = {"movflags": "faststart"} if kind == ".mp4" else {}
    path = make_videos.write(tmp_path / f"a{kind}", frames, container_options=options)
    whole, damage = read(path)
    assert len(whole) == 30 and not damage
    part, damage = read(make_videos.truncate(path, 0.6))
    assert 2 <= len(part) < 25 and path.name in damage
    for a, b in zip(part, whole, strict=False):
        np.testing.assert_array_equal(a, b)


def test_header_alone_is_a_bad_file(tmp_path):
    path = make_videos.write(tmp_path / "a.webm", make_videos.counters(30))
    with pytest.raises(errors.UserError, match="no frame of it can be decoded|cannot be opened"):
        read(make_videos.truncate(path, 0.05))
    frames = [make_videos.texture(48, 64, seed) for seed in range(30)]
    path = make_videos.write(tmp_path / "a.mp4", frames)  # its index is at the end
    with pytest.raises(errors.UserError, match="cannot be opened"):
        read(make_videos.truncate(path, 0.6))


@pytest.mark.parametrize("kind", KINDS)
def test_damage_never_raises_anything_else(tmp_path, kind):
    frames = [make_videos.texture(48, 64, seed) for seed in range(12)]
    path = make_videos.write(tmp_path / f"a{kind}", frames)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(whole)
        at = rng.integers(0, len(whole) - 64)
        broken[at : at + 64] = rng.bytes(64)
        path.write_bytes(broken[: rng.integers(len(whole) // 3, len(whole) + 1)])
        try:
            frames, _ = read(path, [k / 10 for k in range(100)], start=float(rng.choice([0.0, 0.5])))
        except errors.UserError as error:
            assert path.name in str(error) and "\n" not in str(error)
        else:
            assert all(frame.shape == (32, 32, 3) for frame in frames)


def save_images(folder, frames, suffix="jpg", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / f"img_{i}.{suffix}", **options)
    return folder


@pytest.mark.parametrize("suffix", ("jpg", "png", "webp"))
def test_folders_of_images(tmp_path, suffix):
    folder = save_images(tmp_path / "clip", make_videos.counters(12), suffix)  # img_10 is after img_9
    frames, damage = read(folder, image_times=np.arange(12) / 30, rate=30)
    assert numbers(frames) == list(range(12)) and not damage
    assert numbers(read(folder, image_times=np.arange(12) / 30, rate=10)[0]) == [0, 3, 6, 9]


def test_jpegs_of_the_asked_size_are_handed_over_as_they_are(tmp_path):
    folder = save_images(tmp_path / "clip", make_videos.counters(3, (32, 32)), quality=70)
    frames, _ = read(folder, image_times=np.arange(3) / 10)
    assert frames == [(folder / f"img_{i}.jpg").read_bytes() for i in (1, 2, 3)]
    turned = save_images(tmp_path / "turned", [quadrants()[:32, 16:48]] * 2, exif=_exif(orientation=6))
    frames, _ = read(turned, image_times=np.arange(2) / 10)
    assert isinstance(frames[0], np.ndarray)  # stored bytes would lie on their side
    assert np.abs(frames[0].astype(int) - np.rot90(quadrants()[:32, 16:48], -1)).mean() < 12


def _exif(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def test_bad_images_are_named(tmp_path):
    folder = save_images(tmp_path / "clip", make_videos.counters(4))
    (folder / "img_3.jpg").write_bytes(b"no image")
    frames, damage = read(folder, image_times=np.arange(4) / 10)
    assert numbers(frames) == [0, 1] and "img_3.jpg" in damage
    (folder / "img_1.jpg").write_bytes(b"")
    with pytest.raises(errors.UserError, match="img_1.jpg"):
        read(folder, image_times=np.arange(4) / 10)
    with pytest.raises(errors.UserError, match="holds 4 images where 5"):
        read(folder, image_times=np.arange(5) / 10)
    with pytest.raises(errors.UserError, match="unknown rate"):
        read(folder)


def test_images_may_be_in_memory(tmp_path):
    folder = save_images(tmp_path / "clip", make_videos.counters(3), "png")
    images = tuple((folder / f"img_{i}.png").read_bytes() for i in (1, 2, 3))
    footage = recordings.Footage("table.parquet", frames=images)
    reader = decoding.open_footage(footage, pictures.Picture(32), np.arange(3) / 10)
    assert numbers(reader.at([0, 0.1, 0.2])) == [0, 1, 2]
    footage = recordings.Footage("table.parquet", frames=(b"no image",))
    with pytest.raises(errors.UserError, match="image 0 of table.parquet"):
        list(decoding.open_footage(footage, pictures.Picture(32), np.zeros(1)).at([0.0]))


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="no ../shared/data/videos")
def test_real_clips():
    robots = json.loads((VIDEOS / "instructions.json").read_text())
    expected = {"hands_blocks.mp4": 292, **dict.fromkeys(robots, 30)}
    for name, count in expected.items():
        frames, damage = read(VIDEOS / name, rate=30, picture=pictures.Picture(64))
        assert not damage and abs(len(frames) - count) <= 3
        later, _ = read(VIDEOS / name, [0.0, 0.1], start=0.5, picture=pictures.Picture(64))
        np.testing.assert_array_equal(later, [frames[15], frames[18]])
