"""Recordings become one dataset: whole, the same however it was built, and honest about what is missing."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import make_videos
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from lapa_jax import errors
from lapa_jax.data.video import clips, motion, recordings
from lapa_jax.data.video import folders as video

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "data/video/build.py"


def videos(root, count=6, frames=12):
    for i in range(count):
        make_videos.write(root / f"{i}.{('mp4', 'webm')[i % 2]}", make_videos.counters(frames + i, (64, 48)))
    (root / "instructions.jsonl").write_text('{"file": "0.mp4", "instruction": "push the cup"}\n')
    return root


def build(source, out, settings=None, split="train", **options):
    settings = settings or clips.Settings(rate=10, size=32)
    return clips.build({split: source}, out, settings, **{"workers": 0, "progress": False, **options})


def episodes(folder, split="train"):
    """[(metadata, instructions, list of uint8[S, S, 3], other features of the steps)]"""
    found = []
    for episode in tfds.builder_from_directory(str(folder)).as_data_source(split):
        steps = list(episode["steps"])
        metadata = {k: v.decode() if isinstance(v, bytes) else v for k, v in episode["episode_metadata"].items()}
        images = [step["observation"]["image_primary"] for step in steps]
        found.append((metadata, {step["language_instruction"].decode() for step in steps}, images, steps))
    return found


def numbers(images):
    return [make_videos.number(image) for image in images]


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def report(folder, split="train"):
    return json.loads((folder / "lapa.json").read_text())["report"][split]


def test_videos_round_trip_through_tfds(tmp_path):
    root = videos(tmp_path / "toys")
    folder = build(video.VideoFolder(root, "all"), tmp_path / "out", recordings_per_shard=4)
    assert folder == tmp_path / "out/toys/1.0.0"
    found = episodes(folder)
    assert [metadata["id"] for metadata, *_ in found] == [f"{i}.{('mp4', 'webm')[i % 2]}" for i in range(6)]
    for i, (metadata, texts, images, steps) in enumerate(found):
        assert numbers(images)[:12] == list(range(12)) and len(images) == min(12 + i, 100)
        assert texts == {"push the cup" if i == 0 else ""}
        assert metadata["file_path"] == str(root / metadata["id"]) and metadata["start"] == 0
        assert [bool(s["is_first"]) for s in steps] == [True] + [False] * (len(steps) - 1)
        assert [bool(s["is_last"]) for s in steps] == [False] * (len(steps) - 1) + [True]
        assert images[0].shape == (32, 32, 3)
    assert sorted(p.name for p in folder.iterdir()) == [
        "dataset_info.json", "features.json", "lapa.json",
        "toys-train.array_record-00000-of-00002", "toys-train.array_record-00001-of-00002",
    ]  # fmt: skip
    metadata = json.loads((folder / "lapa.json").read_text())
    assert (metadata["name"], metadata["rate_hz"]) == ("toys", 10.0)
    assert report(folder)["counts"] == {
        "clips": 6, "clips without instruction": 5, "frames": 87, "recordings": 6
    }  # fmt: skip


def test_several_splits_share_a_folder(tmp_path):
    root = videos(tmp_path / "toys")
    splits = {split: video.VideoFolder(root, split) for split in ("train", "val")}
    folder = clips.build(splits, tmp_path / "out", clips.Settings(rate=5, size=16), workers=0, progress=False)
    ids = [{metadata["id"] for metadata, *_ in episodes(folder, split)} for split in splits]
    assert len(ids[0]) == 5 and len(ids[1]) == 1 and not ids[0] & ids[1]
    assert numbers(episodes(folder, "val")[0][2])[:6] == [0, 2, 4, 6, 8, 10]


def test_long_videos_become_clips(tmp_path):
    make_videos.write(tmp_path / "toys/long.mp4", make_videos.counters(33))
    settings = clips.Settings(rate=10, size=32, max_seconds=1.5, min_seconds=0.4)
    folder = build(video.VideoFolder(tmp_path / "toys", "all"), tmp_path / "out", settings)
    found = episodes(folder)
    assert [numbers(images) for _, _, images, _ in found] == [list(range(15)), list(range(15, 30))]
    assert [(m["id"], m["start"]) for m, *_ in found] == [("long.mp4", 0.0), ("long.mp4#15", 1.5)]
    assert report(folder)["counts"]["dropped: short"] == 1  # the last three frames


def test_files_that_play_faster_than_life(tmp_path):
    make_videos.write(tmp_path / "toys/fast.mp4", make_videos.counters(30), rate=30)
    settings = clips.Settings(rate=3, size=32, speed=10.0)
    found = episodes(build(video.VideoFolder(tmp_path / "toys", "all"), tmp_path / "out", settings))
    assert numbers(found[0][2]) == list(range(30))
    assert found[0][0]["id"] == "fast.mp4" and len(found) == 1  # one second of file is ten of life


def test_parallel_and_serial_builds_are_equal(tmp_path):
    source = video.VideoFolder(videos(tmp_path / "toys"), "all")
    serial = build(source, tmp_path / "serial", recordings_per_shard=2)
    parallel = build(source, tmp_path / "parallel", recordings_per_shard=2, workers=2)
    assert contents(serial) == contents(parallel)


def test_machines_that_share_a_build(tmp_path):
    source = video.VideoFolder(videos(tmp_path / "toys"), "all")
    whole = build(source, tmp_path / "whole", recordings_per_shard=1)
    for index in (2, 0, 1):
        folder = build(source, tmp_path / "parts", recordings_per_shard=1, shard_index=index, shard_count=3)
        assert (folder / "lapa.json").exists() == (index == 1)
    assert contents(folder) == contents(whole)
    with pytest.raises(errors.UserError, match="shard_index 3 is outside 0..2"):
        build(source, tmp_path / "parts", shard_index=3, shard_count=3)


@dataclasses.dataclass
class Slow:
    """A source that takes its time."""

    source: recordings.Recordings
    wait: float

    def __getattr__(self, name):
        if name.startswith("__") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        time.sleep(self.wait)
        return self.source[index]


@pytest.mark.parametrize("workers", (0, 2))
def test_a_killed_build_goes_on(tmp_path, workers):
    root = videos(tmp_path / "toys", count=8)
    expected = build(video.VideoFolder(root, "all"), tmp_path / "whole", recordings_per_shard=1)
    script = (
        "import test_clips\n"
        "from lapa_jax.data.video import folders as video\n"
        "if __name__ == '__main__':\n"
        f"    source = test_clips.Slow(video.VideoFolder({str(root)!r}, 'all'), 0.3)\n"
        f"    test_clips.build(source, {str(tmp_path / 'out')!r}, recordings_per_shard=1, workers={workers})\n"
    )
    program = tmp_path / "build_slowly.py"
    program.write_text(script)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(program)], env={**os.environ, "PYTHONPATH": path}, start_new_session=True
    )
    folder, deadline = tmp_path / "out/toys/1.0.0", time.monotonic() + 600
    while not list(folder.glob("unfinished/train-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # of its own session: this program and its workers
    process.wait()
    assert 1 <= len(list(folder.glob("toys-*"))) < 8 and not (folder / "lapa.json").exists()
    noted = [int(p.stem.split("-")[1]) for p in folder.glob("unfinished/train-*.json")]
    done = {p: p.stat().st_mtime_ns for i in noted for p in folder.glob(f"toys-*-{i:05d}-of-*")}
    assert len(done) == len(noted) >= 1
    (folder / ".left-behind.partial").write_bytes(b"half")
    build(video.VideoFolder(root, "all"), tmp_path / "out", recordings_per_shard=1)
    assert contents(folder) == contents(expected)
    assert {p: p.stat().st_mtime_ns for p in done} == done


def test_two_processes_may_build_the_same(tmp_path):
    """One of them finishes while the other is in the middle of a shard."""
    source = video.VideoFolder(videos(tmp_path / "toys"), "all")
    whole = build(source, tmp_path / "whole", recordings_per_shard=2)

    class Overtaken(video.VideoFolder):
        def __getitem__(self, index):
            if index == 3:
                build(source, tmp_path / "out", recordings_per_shard=2)
                times.append(last.stat().st_mtime_ns)
            return super().__getitem__(index)

    last, times = tmp_path / "out/toys/1.0.0/toys-train.array_record-00002-of-00003", []
    folder = build(Overtaken(tmp_path / "toys", "all"), tmp_path / "out", recordings_per_shard=2)
    assert times == [last.stat().st_mtime_ns]  # what is there is not written again
    assert contents(folder) == contents(whole)


def test_a_finished_build_is_kept(tmp_path):
    source = video.VideoFolder(videos(tmp_path / "toys", 2), "all")
    folder = build(source, tmp_path / "out")
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert build(source, tmp_path / "out") == folder
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times


def test_other_settings_and_other_files_are_refused(tmp_path):
    root = videos(tmp_path / "toys", 2)
    source = video.VideoFolder(root, "all")
    folder = build(source, tmp_path / "out")
    before = contents(folder)
    with pytest.raises(errors.UserError, match="begun with rate_hz 10.0, not 5.0"):
        build(source, tmp_path / "out", clips.Settings(rate=5, size=32))
    with pytest.raises(errors.UserError, match="settings.quality 95, not 50"):
        build(source, tmp_path / "out", clips.Settings(rate=10, size=32, quality=50))
    with pytest.raises(errors.UserError, match="settings.filters"):
        build(source, tmp_path / "out", clips.Settings(rate=10, size=32, filters=motion.Filters()))
    os.utime(root / "0.mp4", ns=(1, 1))
    with pytest.raises(errors.UserError, match="splits.train.fingerprint"):
        build(video.VideoFolder(root, "all"), tmp_path / "out")
    assert contents(folder) == before


def test_somebody_elses_folder_is_not_touched(tmp_path):
    source = video.VideoFolder(videos(tmp_path / "toys", 2), "all")
    precious = tmp_path / "out/toys/1.0.0/notes.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(errors.UserError, match="was not built here; choose another folder"):
        build(source, tmp_path / "out")
    (precious.parent / "lapa.json").write_text("[]")
    with pytest.raises(errors.UserError, match="lapa.json was not written by this program"):
        build(source, tmp_path / "out")
    assert precious.read_text() == "mine"


def bad_videos(root):
    videos(root, 3)
    (root / "empty.mp4").touch()
    (root / "text.webm").write_text("no video")
    make_videos.write_audio(root / "sound.mp4")
    make_videos.write(root / "one_frame.mp4", make_videos.counters(1))
    frames = [make_videos.texture(48, 64, seed) for seed in range(30)]
    make_videos.truncate(make_videos.write(root / "cut_off.webm", frames), 0.6)
    return root


def test_bad_files_are_skipped_and_named(tmp_path, caplog):
    folder = build(video.VideoFolder(bad_videos(tmp_path / "toys"), "all"), tmp_path / "out")
    assert {m["id"] for m, *_ in episodes(folder)} == {"0.mp4", "1.webm", "2.mp4", "cut_off.webm"}
    found = report(folder)
    assert set(found["bad"]) == {"empty.mp4", "text.webm", "sound.mp4", "one_frame.mp4"}
    assert "is empty" in found["bad"]["empty.mp4"] and "fewer than two" in found["bad"]["one_frame.mp4"]
    assert set(found["damaged"]) == {"cut_off.webm"}
    assert "train: 4 recordings gave no clip" in caplog.text and "1 recordings are cut short" in caplog.text


@pytest.mark.parametrize("workers", (0, 1))
def test_bad_files_are_fatal_by_choice(tmp_path, workers):
    source = video.VideoFolder(bad_videos(tmp_path / "toys"), "all")
    with pytest.raises(errors.UserError, match="empty.mp4 is empty|sound.mp4 holds no video|cut_off.webm ends at"):
        build(source, tmp_path / "out", on_error="fail", workers=workers)
    folder = build(source, tmp_path / "out", on_error="skip")  # goes on where that one stopped
    assert len(report(folder)["bad"]) == 4


def test_nothing_left_is_an_error(tmp_path):
    root = tmp_path / "toys"
    root.mkdir()
    (root / "empty.mp4").touch()
    with pytest.raises(errors.UserError, match="no clip is left of split 'train' of toys.*1 recordings"):
        build(video.VideoFolder(root, "all"), tmp_path / "out")
    assert not (tmp_path / "out/toys/1.0.0/lapa.json").exists()


def test_a_rate_above_the_files_is_warned_of(tmp_path, caplog):
    folder = build(
        video.VideoFolder(videos(tmp_path / "toys", 2), "all"), tmp_path / "out", clips.Settings(rate=20, size=16)
    )
    assert report(folder)["counts"]["frames repeated"] == 12 + 13
    assert "repeat the one before" in caplog.text


def frame_folder(root, size, count=6):
    root.mkdir(parents=True)
    for i, image in enumerate(make_videos.counters(count, (size, size)), 1):
        Image.fromarray(image).save(root / f"img_{i:05d}.jpg", quality=60)
    return root


def test_jpegs_of_the_right_size_are_stored_as_they_are(tmp_path):
    for clip, size in (("right", 32), ("wrong", 40)):
        frame_folder(tmp_path / "frames" / clip, size)
    folder = build(video.FrameFolders(tmp_path / "frames", "all", rate=10), tmp_path / "out")
    stored = b"".join(path.read_bytes() for path in folder.glob("frames-*"))
    kept = [path.read_bytes() in stored for path in sorted((tmp_path / "frames").rglob("*.jpg"))]
    assert kept == [True] * 6 + [False] * 6
    assert [numbers(images) for _, _, images, _ in episodes(folder)] == [list(range(6))] * 2


def test_frame_folders_at_another_rate(tmp_path):
    frame_folder(tmp_path / "frames/one", 32, count=12)
    source = video.FrameFolders(tmp_path / "frames", "all", rate=30)
    folder = build(source, tmp_path / "out", clips.Settings(rate=10, size=32, min_seconds=0.1))
    assert numbers(episodes(folder)[0][2]) == [0, 3, 6, 9]
    assert json.loads((folder / "lapa.json").read_text())["rate_hz"] == 10
    own = build(source, tmp_path / "own", clips.Settings(size=32, min_seconds=0.1))
    assert len(episodes(own)[0][2]) == 12 and json.loads((own / "lapa.json").read_text())["rate_hz"] == 30


@dataclasses.dataclass
class Robot:
    """Two cameras in one file each, many episodes in a file, arrays beside them."""

    root: Path
    episodes: int = 3
    steps: int = 8
    name: str = "robot"
    rate: float | None = 10.0
    fingerprint: str = "1"
    cameras: tuple = ("image_primary", "image_wrist")
    array_shapes: dict = dataclasses.field(default_factory=lambda: {"action": (2,), "proprio": (3,)})
    missing: int = 0

    def __len__(self):
        return self.episodes

    def __getitem__(self, i):
        start = i * self.steps / 10
        footage = {
            "image_primary": recordings.Footage(str(self.root / "front.mp4"), start, start + self.steps / 10),
            "image_wrist": recordings.Footage(str(self.root / "wrist.mp4"), start, start + self.steps / 10),
        }
        arrays = {
            "action": np.full((self.steps, 2), i, np.float32) + np.arange(self.steps, dtype=np.float32)[:, None],
            "proprio": np.zeros((self.steps - self.missing, 3), np.float32),
        }
        return recordings.Recording(f"episode {i}", "lift", footage, np.arange(self.steps) / np.float32(10), arrays)


@pytest.fixture
def robot(tmp_path):
    make_videos.write(tmp_path / "robot/front.mp4", make_videos.counters(24))
    make_videos.write(tmp_path / "robot/wrist.mp4", make_videos.counters(24)[::-1])
    return Robot(tmp_path / "robot")


def test_robots_keep_their_arrays_and_cameras(tmp_path, robot):
    folder = build(robot, tmp_path / "out", clips.Settings(size=32, max_seconds=0.5))  # they stay whole
    for i, (_, texts, images, steps) in enumerate(episodes(folder)):
        assert texts == {"lift"} and numbers(images) == list(range(8 * i, 8 * i + 8))
        wrist = [step["observation"]["image_wrist"] for step in steps]
        assert numbers(wrist) == [23 - n for n in range(8 * i, 8 * i + 8)]
        np.testing.assert_array_equal([s["action"] for s in steps], robot[i].arrays["action"])
        assert steps[0]["observation"]["proprio"].dtype == np.float32
        assert [bool(s["is_terminal"]) for s in steps] == [False] * 7 + [True]
    assert json.loads((folder / "lapa.json").read_text())["rate_hz"] == 10


def test_robots_whose_video_ends_early_are_cut_there(tmp_path, robot):
    make_videos.write(robot.root / "wrist.mp4", make_videos.counters(22))
    folder = build(robot, tmp_path / "out", clips.Settings(size=32))
    assert [len(steps) for *_, steps in episodes(folder)] == [8, 8, 6]
    assert "step 6 of 8" in report(folder)["damaged"]["episode 2"]


def test_robots_that_do_not_fit_are_refused(tmp_path, robot):
    for settings, message in (
        (clips.Settings(size=32, rate=5), "actions at 10.0 Hz, which are not resampled to 5"),
        (clips.Settings(size=32, speed=2), "leave speed at 1"),
        (clips.Settings(size=32, filters=motion.Filters()), "leave the filters out"),
    ):
        with pytest.raises(errors.UserError, match=message):
            build(robot, tmp_path / "out", settings)
    broken = dataclasses.replace(robot, missing=1)
    with pytest.raises(errors.UserError, match="7 rows of proprio and 8 timestamps"):
        build(broken, tmp_path / "a", clips.Settings(size=32), on_error="fail")
    broken = dataclasses.replace(robot, array_shapes={"action": (7,), "proprio": (3,)})
    with pytest.raises(errors.UserError, match="episode 0 has cameras"):
        build(broken, tmp_path / "b", clips.Settings(size=32), on_error="fail")


def test_splits_and_settings_that_do_not_fit_are_refused(tmp_path):
    root = videos(tmp_path / "toys", 1)
    source = video.VideoFolder(root, "all")
    for wrong, message in (
        (dict(splits={}), "no split"),
        (dict(splits={"train": source, "val": video.VideoFolder(root, "val")}), "'val' of toys has no recordings"),
        (
            dict(splits={"train": source, "val": video.VideoFolder(root, "all", name="b")}),
            "has name b, others toys",
        ),
        (dict(splits={"train": video.VideoFolder(root, "all", name="Bad Name")}), "is no dataset name"),
        (dict(splits={"train": source}, settings=clips.Settings()), "no rate of its own"),
        (dict(splits={"train": source}, on_error="ignore"), "no on_error 'ignore'"),
    ):
        with pytest.raises(errors.UserError, match=message):
            clips.build(**{"out": tmp_path / "out", "settings": clips.Settings(rate=10), **wrong})
    for wrong in ({"rate": 0}, {"rate": float("inf")}, {"quality": 100}, {"fit": "pad"}, {"size": 2},
                  {"min_seconds": 11}, {"speed": -1}):  # fmt: skip
        with pytest.raises(errors.UserError, match=f"{next(iter(wrong))}|frames of 2 px"):
            clips.Settings(**wrong)


def scenes(root):
    """Videos of 2 s: with a cut, static, from a moving camera, and one of which nothing is wrong."""
    scene = make_videos.texture(96, 400, seed=5)
    hand = make_videos.texture(48, 48, seed=6)

    def moving(background, start):
        frames = []
        for t in range(20):
            frame = background(t).copy()
            frame[20:68, start + 3 * t : start + 3 * t + 48] = hand
            frames.append(frame)
        return frames

    good = moving(lambda t: scene[:, 100:228], 4)
    make_videos.write(root / "good.mp4", good)
    make_videos.write(root / "static.mp4", [scene[:, 100:228]] * 20)
    make_videos.write(root / "camera.mp4", moving(lambda t: scene[:, 100 + t : 228 + t], 4))
    other = moving(lambda t: make_videos.texture(96, 128, seed=7), 10)
    make_videos.write(root / "cut.mp4", good[:8] + other[:12])
    make_videos.write(root / "early_cut.mp4", good[:3] + other[:12])
    return root


@pytest.mark.parametrize("action", ("keep", "drop", "compensate"))
def test_filters_drop_split_and_report(tmp_path, action):
    filters = motion.Filters(camera=action)
    settings = clips.Settings(rate=10, size=32, filters=filters)
    folder = build(video.VideoFolder(scenes(tmp_path / "toys"), "all"), tmp_path / "out", settings)
    found = {m["id"]: (m["start"], len(images)) for m, _, images, _ in episodes(folder)}
    expected = {"good.mp4": (0, 20), "cut.mp4": (0, 8), "cut.mp4#8": (0.8, 12), "early_cut.mp4#3": (0.3, 12)}
    assert found == {**expected, **({} if action == "drop" else {"camera.mp4": (0, 20)})} | {
        k: (pytest.approx(v[0]), v[1]) for k, v in expected.items()
    }
    counts = report(folder)["counts"]
    assert counts["cuts"] == 2 and counts["dropped: static"] == 1 and counts["dropped: short"] == 1
    assert counts.get("dropped: camera moves", 0) == (action == "drop")
    assert counts.get("compensated", 0) == (action == "compensate")
    scores = report(folder)["scores"]
    assert scores["camera_speed"]["q95"] > 0.03 > 0.01 > scores["camera_speed"]["q50"]
    plan = json.loads((folder / "lapa.json").read_text())["plan"]
    assert plan["settings"]["filters"] == dataclasses.asdict(filters)


def test_long_videos_are_judged_in_parts(tmp_path):
    table, hand = make_videos.texture(96, 128), make_videos.texture(48, 48, seed=6)
    frames = [table] * 10 + [table.copy() for _ in range(40)]
    for t, frame in enumerate(frames[10:]):
        frame[20:68, 2 * t : 2 * t + 48] = hand
    make_videos.write(tmp_path / "toys/long.mp4", frames)  # 1 s static, then 4 s of a hand
    settings = clips.Settings(rate=10, size=32, max_seconds=2.0, filters=motion.Filters(static=0.01))
    folder = build(video.VideoFolder(tmp_path / "toys", "all"), tmp_path / "out", settings)
    found = [(m["id"], m["start"], len(images)) for m, _, images, _ in episodes(folder)]
    assert found == [("long.mp4", 0.0, 20), ("long.mp4#20", 2.0, 20), ("long.mp4#40", 4.0, 10)]


def test_filters_do_not_change_what_passes(tmp_path):
    source = video.VideoFolder(scenes(tmp_path / "toys"), "all")
    for fit in ("stretch", "crop"):
        plain = build(source, tmp_path / f"a {fit}", clips.Settings(rate=10, size=32, fit=fit))
        judged = build(
            source, tmp_path / f"b {fit}", clips.Settings(rate=10, size=32, fit=fit, filters=motion.Filters())
        )
        images = [{m["id"]: im for m, _, im, _ in episodes(folder)}["good.mp4"] for folder in (plain, judged)]
        assert np.abs(np.subtract(*images, dtype=float)).mean() < 2


def test_filtered_builds_are_equal_too(tmp_path):
    source = video.VideoFolder(scenes(tmp_path / "toys"), "all")
    settings = clips.Settings(rate=10, size=32, filters=motion.Filters(camera="compensate"))
    serial = build(source, tmp_path / "serial", settings, recordings_per_shard=2)
    elsewhere = build(source, tmp_path / "elsewhere", settings, recordings_per_shard=2, workers=1)
    assert contents(serial) == contents(elsewhere)


def test_workers_do_without_jax_and_tensorflow():
    script = (
        "import sys, lapa_jax.data.video.clips, lapa_jax.data.video.folders\n"
        "assert not {'jax', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def run_program(*flags):
    command = [sys.executable, str(PROGRAM), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_program_builds_something_something(tmp_path):
    root = tmp_path / "ssv2"
    for split, ids in (("train", "12"), ("validation", "3")):
        entries = [{"id": i, "label": f"moving {i}"} for i in ids]
        (root / "labels").mkdir(parents=True, exist_ok=True)
        (root / f"labels/{split}.json").write_text(json.dumps(entries))
    for i in "123":
        make_videos.write(
            root / f"20bn-something-something-v2/{i}.webm", make_videos.counters(12, (427 // 4, 60)), 12
        )
    flags = [f"--source={root}", f"--out={tmp_path / 'out'}", "--size=32", "--num_workers=0"]
    done = run_program(*flags, "--rate=6")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out/something_something_v2/1.0.0"
    assert done.stdout.splitlines()[-1] == str(folder) and "train: 2 clips" in done.stdout
    assert [(texts, numbers(images)) for _, texts, images, _ in episodes(folder, "val")] == [
        ({"moving 3"}, [0, 2, 4, 6, 8, 10])
    ]
    refused = run_program(*flags, "--rate=12")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("error: ") and "begun with rate_hz" in refused.stderr
    refused = run_program(*flags, "--camera=drop")
    assert refused.returncode == 2 and "add it" in refused.stderr.splitlines()[-1]


def test_stored_jpegs_have_the_asked_quality(tmp_path):
    root = make_videos.write(tmp_path / "toys/a.mp4", [make_videos.texture(64, 64, s) for s in range(8)]).parent
    sizes = []
    for quality in (50, 95):
        folder = build(
            video.VideoFolder(root, "all"),
            tmp_path / str(quality),
            clips.Settings(rate=10, size=64, quality=quality),
        )
        decoders = {"steps": {"observation": {"image_primary": tfds.decode.SkipDecoding()}}}
        source = tfds.builder_from_directory(str(folder)).as_data_source("train", decoders=decoders)
        encoded = [step["observation"]["image_primary"] for step in source[0]["steps"]]
        assert all(Image.open(io.BytesIO(jpeg)).format == "JPEG" for jpeg in encoded)
        sizes.append(sum(map(len, encoded)))
    assert sizes[1] > 1.5 * sizes[0]
