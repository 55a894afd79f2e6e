"""The benchmark at toy size: its dataset, its contestants and its page. Nothing here looks at speed."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import rlds

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from pipeline import contestants, dataset, folders, memory, plan, report, scenes  # noqa: E402

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed (extra [bench])"
)
GAP = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """--data of the program, with the dataset in it."""
    root = tmp_path_factory.mktemp("benchmark")
    folder, size = dataset.make(root, 1e-3, 1, None, workers=1)
    return root, folder, size


@pytest.fixture(scope="module")
def frames(data):
    """The frames as stored, as `small` has them: float32[E][T, 32, 32]."""
    episodes = sorted((data[1] / dataset.FRAMES).iterdir())
    return [np.stack([small(path.read_bytes()) for path in sorted(folder.iterdir())]) for folder in episodes]


def small(image):
    if isinstance(image, bytes):
        import simplejpeg

        image = simplejpeg.decode_jpeg(image)
    grey = image.astype(np.float32).reshape(32, 8, 32, 8, 3).mean(axis=(1, 3, 4))
    return grey - grey.mean()  # TensorFlow's decoder makes a frame darker


def place(frames, image):
    """(episode, step) of the stored frame that this is; decoders differ a little."""
    apart = [np.abs(episode - small(image)).mean(axis=(1, 2)) for episode in frames]
    episode = int(np.argmin([one.min() for one in apart]))
    assert apart[episode].min() < 0.5
    return episode, int(apart[episode].argmin())


def job(data, contestant, **changes):
    root, folder, size = data
    pairs = size.frames - GAP * size.episodes
    job = contestants.Job(contestant, "", str(folder), str(root / "index"), 1, batch=8, pairs=pairs, buffer=pairs)
    return dataclasses.replace(job, **changes)


def batch(job):
    return next(iter(contestants.CONTESTANTS[job.contestant].batches(job)))


OURS = ["ours", "ours_array_record", "ours_compressed"]
TENSORFLOW = [pytest.param(name, marks=needs_tensorflow) for name in ("tf_data", "tf_data_plain")]


@pytest.mark.parametrize("name", OURS + TENSORFLOW)
def test_contestants_give_pairs_of_the_dataset(data, frames, name):
    found = batch(job(data, name))
    for before, after in zip(found["frame"], found["next_frame"], strict=True):
        episode, step = place(frames, before)
        assert place(frames, after) == (episode, step + GAP)


def test_the_formats_hold_the_same(data):
    batches = [batch(job(data, name))["frame"] for name in OURS]
    assert (batches[0] == batches[1]).all() and (batches[0] == batches[2]).all()


def test_folders_pair_as_official_lapa(data, frames):
    found = batch(job(data, "folders", batch=16))
    assert found.shape == (16, 3, 2, 256, 256) and found.dtype == np.float32 and 0.5 < found.max() <= 1
    for pair in found:
        first, second = (np.rint(255 * pair[:, i].transpose(1, 2, 0)) for i in (0, 1))
        episode, step = place(frames, first)
        assert place(frames, second) == (episode, min(step + GAP, len(frames[episode]) - 1))


def test_workers_hand_over_whole_batches(data, frames):
    batches = folders.batches(str(data[1] / dataset.FRAMES), GAP, 4, 256, workers=2)
    for _ in range(5):
        for pair in next(batches):
            place(frames, np.rint(255 * pair[:, 0].transpose(1, 2, 0)))
    assert memory.resident() > 1e6
    batches.close()


def test_a_skip_is_a_resume(data):
    whole = contestants.CONTESTANTS["ours"].batches(job(data, "ours"))
    next(whole), next(whole)
    assert (next(whole)["frame"] == batch(job(data, "ours", skip=2))["frame"]).all()


def test_the_half_is_half(data):
    _, folder, size = data
    full, half = (contestants.open_episodes(job(data, "ours", split=split)) for split in ("full", "half"))
    assert len(full) == size.episodes and full.num_frames == size.frames
    assert len(half) == size.episodes // 2 and (half.lengths == full.lengths[: len(half)]).all()
    assert rlds.open_dataset(dataset.directory(folder, "array_record")).file_format == "array_record"


def test_frames_are_cut_from_videos(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed (extra [video])")
    from make_videos import counters, write

    write(tmp_path / "one.mp4", counters(8, (320, 288)), rate=30)
    found = list(scenes.open_scenes(str(tmp_path)).episode(0, cameras=2))
    assert 40 <= len(found) <= 60 and {frame.shape for step in found for frame in step} == {(256, 256, 3)}
    assert len({int(step[0].mean()) for step in found}) > 3
    with pytest.raises(errors.UserError, match="no videos .*leave --videos out"):
        scenes.open_scenes(str(tmp_path / "none"))


def run(data, *more):
    command = [sys.executable, "benchmarks/data_pipeline.py", f"--data={data[0]}", "--gigabytes=0.001"]
    command += ["--seconds=0.05", "--batch_size=8", *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_program_writes_its_tables(data, tmp_path):
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    ended = run(data, "--only=speed/ours/1,epoch/ours/half,index/1", f"--write={page}", f"--json={results}")
    assert ended.returncode == 0, ended.stderr
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    found = json.loads(results.read_text())["results"]
    assert set(found) == {"speed/ours/1", "epoch/ours/half", "index/1"}
    speed = found["speed/ours/1"]["result"]
    assert speed["pairs_per_s"] > 0 and f"| {speed['pairs_per_s']:,.0f} |" in text
    assert len(found["epoch/ours/half"]["result"]["tenths_mb"]) == 10 and "half, " in text
    if importlib.util.find_spec("tensorflow") is None:
        assert "(a), tf.data, is left out" in ended.stdout and "(a) is left out" in text


def test_bad_flags_are_one_line(data, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    ended = run(data, f"--write={page}")
    assert ended.returncode == 2 and ended.stderr.splitlines()[-1].startswith("error: --write=")


def test_a_job_that_fails_is_in_the_page(data):
    done = plan.run(job(data, "nobody", task="speed"))
    assert "nobody" in done.result["failed"]
    text = report.page({"speed/nobody/1": done}, data[2], "command", tensorflow=True)
    assert "### Not measured\n\n- speed/nobody/1: " in text


def test_ratios_and_all_jobs():
    size = dataset.Size(episodes=1000, frames=50_000, jpeg_bytes=10**9, record_bytes=10**9)
    jobs = plan.jobs(contestants.Job("", "", "data", "index", 2), size, tensorflow=True)
    alone = plan.jobs(contestants.Job("", "", "data", "index", 2), size, tensorflow=False)
    assert set(jobs) - set(alone) == {name for name in jobs if "tf_data" in name}
    assert jobs["epoch/tf_data/whole"].buffer == 47_000 and jobs["epoch/ours/half"].pairs == 23_500
    assert jobs["resume/ours"].skip * 64 <= 0.6 * 47_000 < (jobs["resume/ours"].skip + 1) * 64
    speeds = {"ours": 600.0, "tf_data": 200.0, "tf_data_plain": 800.0, "folders": 150.0}
    results = {
        f"speed/{name}/1": plan.Done(
            jobs[f"speed/{name}/1"], {"pairs_per_s": speed, "windows": [speed] * 3, "cores_busy_elsewhere": 0.0}
        )
        for name, speed in speeds.items()
    }
    assert "| ours, TFRecord as published | 600 | 3.00× | 0.75× | 4.00× |" in report.page(results, size, "", True)
