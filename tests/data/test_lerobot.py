"""LeRobot datasets of three versions read back, what is warned about, and every refusal."""

import io
import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import av
import make_lerobot
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lapa_jax import errors
from lapa_jax.data.lerobot import dataset as lerobot
from lapa_jax.data.lerobot import parquet as lerobot_parquet

SAMPLE = Path(__file__).resolve().parents[3] / "shared/data/lerobot_sample"
TOP, WRIST = "observation.images.top", "observation.images.wrist"
TOYS = make_lerobot.toys()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """version -> a dataset with a video from the top and images from the wrist; read it only."""
    root = tmp_path_factory.mktemp("lerobot")
    cameras = {TOP: "video", WRIST: "image"}
    return {v: make_lerobot.write(root / f"Toy-{v}", v, TOYS, cameras) for v in make_lerobot.VERSIONS}


@pytest.fixture
def copied(written, tmp_path):
    """(version) -> a copy to be damaged."""
    return lambda version: Path(shutil.copytree(written[version], tmp_path / f"toy_{version[1]}"))


def first_parquet(root):
    return min((root / "data").rglob("*.parquet"))


def last_parquet(root):
    return max((root / "data").rglob("*.parquet"))


def grey_levels(footage, timestamps):
    """Mean level of the frame nearest to each timestamp."""
    if footage.frames is not None:
        assert len(footage.frames) == len(timestamps)
        return [np.asarray(Image.open(io.BytesIO(png))).mean() for png in footage.frames]
    with av.open(footage.path) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]
    times, levels = np.array(frames).T
    return [levels[np.abs(times - footage.start - t).argmin()] for t in timestamps]


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("version", make_lerobot.VERSIONS)
def test_reads_back_what_was_written(version, written, caplog):
    dataset = lerobot.LeRobot(written[version], "all")
    assert not warnings_of(caplog)
    assert len(dataset) == len(TOYS) and dataset.rate == 10
    assert dataset.name == f"toy_{version.replace('.', '_')}"
    assert dataset.cameras == ("image_primary", "image_wrist")
    assert dataset.array_shapes == {"proprio": (3,), "action": (2,)}
    for toy in reversed(TOYS):
        recording = dataset[toy.index]
        assert recording.id == f"episode_{toy.index:06d}"
        assert recording.instruction == make_lerobot.TASKS[toy.task_index]
        assert recording.timestamps.dtype == np.float64
        np.testing.assert_allclose(recording.timestamps, np.arange(len(toy)) / 10, atol=1e-6)
        assert recording.arrays["proprio"].dtype == recording.arrays["action"].dtype == np.float32
        np.testing.assert_array_equal(recording.arrays["proprio"], toy.state)
        np.testing.assert_array_equal(recording.arrays["action"], toy.action)
        for number, camera in enumerate(dataset.cameras):
            levels = grey_levels(recording.footage[camera], recording.timestamps)
            np.testing.assert_allclose(levels, toy.levels(number), atol=3)


def test_v3_episodes_share_files(written):
    footage = [lerobot.LeRobot(written["v3.0"], "all")[i].footage["image_primary"] for i in range(len(TOYS))]
    assert len({f.path for f in footage}) == 1
    ends = np.cumsum([len(toy) for toy in TOYS]) / 10
    np.testing.assert_allclose([f.stop for f in footage], ends)
    np.testing.assert_allclose([f.start for f in footage], [0, *ends[:-1]])


def test_v3_reads_only_the_row_groups_of_an_episode(tmp_path, monkeypatch):
    read = []
    original = lerobot_parquet.File.read
    monkeypatch.setattr(
        lerobot_parquet.File,
        "read",
        lambda self, names, groups=None: read.append(groups) or original(self, names, groups),
    )
    per_episode = make_lerobot.write(tmp_path / "a", "v3.0", TOYS, per_file=4)
    dataset = lerobot.LeRobot(per_episode, "all")
    read.clear()
    dataset[2], dataset[2], dataset[3]
    assert read == [(2,), (3,)]
    per_file = make_lerobot.write(tmp_path / "b", "v3.0", TOYS, per_file=4, group_per_episode=False)
    dataset = lerobot.LeRobot(per_file, "all")
    read.clear()
    recordings = [dataset[i] for i in range(4)]
    assert read == []  # The first read at opening had them all.
    np.testing.assert_array_equal(recordings[2].arrays["action"], TOYS[2].action)


def test_tasks_in_other_places(copied):
    root = copied("v3.0")
    texts = pa.table({"task_index": [0, 1], "__index_level_0__": ["zero", "one"]})
    pq.write_table(texts, root / "meta/tasks.parquet")
    assert lerobot.LeRobot(root, "all")[1].instruction == "one"
    (root / "meta/tasks.parquet").unlink()
    (root / "meta/tasks.jsonl").write_text(
        '{"task_index": 0, "task": "nil"}\n\n{"task_index": 1, "task": "eins"}\n'
    )
    assert lerobot.LeRobot(root, "all")[1].instruction == "eins"


def test_without_tasks_or_task_index_the_episode_says_it(copied, caplog):
    root = copied("v2.1")
    (root / "meta/tasks.jsonl").unlink()
    assert lerobot.LeRobot(root, "all")[1].instruction == make_lerobot.TASKS[1]
    assert any("no meta/tasks.parquet or tasks.jsonl" in text for text in warnings_of(caplog))


def test_splits(copied):
    root = copied("v2.0")
    parts = {split: [r.id for r in lerobot.LeRobot(root, split)] for split in ("train", "val", "all")}
    assert len(parts["val"]) == 1 and sorted(parts["train"] + parts["val"]) == parts["all"]
    make_lerobot.edit_info(root, splits={"train": "0:2", "test": "2:"})
    assert sorted(r.id for s in ("train", "val") for r in lerobot.LeRobot(root, s)) == parts["all"][:2]
    assert [r.id for r in lerobot.LeRobot(root, "test")] == parts["all"][2:]
    make_lerobot.edit_info(root, splits={"train": "0:3", "val": "3:4"})
    assert [r.id for r in lerobot.LeRobot(root, "train")] == parts["all"][:3]
    assert [r.id for r in lerobot.LeRobot(root, "val")] == parts["all"][3:]


@pytest.mark.parametrize(
    "keys, expected",
    [
        (["cam_low", "cam_left_wrist", "cam_high", "cam_right_wrist"], ["cam_high", "cam_low", "cam_left_wrist"]),
        (
            ["exterior_1_left", "exterior_2_left", "wrist_left"],
            ["exterior_1_left", "exterior_2_left", "wrist_left"],
        ),
        (["phone", "laptop"], ["laptop", "phone", None]),
        (["hand"], ["hand", None, None]),
        (["depth_top", "side"], ["side", None, None]),
    ],
)
def test_cameras_by_their_names(keys, expected, tmp_path):
    root = make_lerobot.write(tmp_path, "v2.1", TOYS[:1], {f"observation.images.{k}": "image" for k in keys})
    dataset = lerobot.LeRobot(root, "all")
    standard = ("image_primary", "image_secondary", "image_wrist")
    found = dict.fromkeys(standard) | dict(zip(dataset.cameras, dataset._cameras.values(), strict=True))
    assert [key and key.removeprefix("observation.images.") for key in found.values()] == expected


def test_cameras_and_arrays_by_choice(written):
    dataset = lerobot.LeRobot(
        written["v2.1"], "all", {"image_primary": WRIST}, {"action": "observation.state"}, name="mine"
    )
    assert dataset.name == "mine" and dataset.cameras == ("image_primary",)
    assert dataset[0].footage["image_primary"].frames is not None
    np.testing.assert_array_equal(dataset[1].arrays["action"], TOYS[1].state)
    for wrong, message in (
        ({"image_top": TOP}, "cameras cannot map 'image_top'"),
        ({"image_primary": "top"}, "features are.*observation.images.top"),
        ({"image_wrist": TOP}, "must name 'image_primary'"),
    ):
        with pytest.raises(errors.UserError, match=message):
            lerobot.LeRobot(written["v2.1"], "all", wrong)
    with pytest.raises(errors.UserError, match="arrays cannot map 'action' to 'x'"):
        lerobot.LeRobot(written["v2.1"], "all", arrays={"action": "x"})
    with pytest.raises(errors.UserError, match="cannot name a dataset"):
        lerobot.LeRobot(written["v2.1"], "all", name="My data")


@pytest.mark.parametrize("version", make_lerobot.VERSIONS)
def test_pickles_without_rows(version, written):
    dataset = lerobot.LeRobot(written[version], "all")
    dataset[0]
    text = pickle.dumps(dataset)
    assert len(text) < 20_000 and dataset[0].footage["image_wrist"].frames[0] not in text
    copy = pickle.loads(text)
    assert copy.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(copy[3].arrays["action"], dataset[3].arrays["action"])


@pytest.mark.parametrize("version", ["v2.0", "v3.0"])
def test_fingerprint_follows_the_files(version, copied):
    root = copied(version)
    seen = [lerobot.LeRobot(root, "all").fingerprint]
    assert lerobot.LeRobot(root, "all").fingerprint == seen[0]
    for path in (last_parquet(root), next(root.rglob("*.mp4")), root / "meta/info.json"):
        os.utime(path, (1, 1))
        seen.append(lerobot.LeRobot(root, "all").fingerprint)
    seen.append(lerobot.LeRobot(root, "all", {"image_primary": WRIST}).fingerprint)
    seen.append(lerobot.LeRobot(root, "val").fingerprint)
    assert len(set(seen)) == len(seen)


@pytest.mark.skipif(
    not SAMPLE.is_dir(), reason="needs ../shared/data/lerobot_sample, a dataset as found in the wild"
)
def test_sample_from_the_wild(caplog):
    dataset = lerobot.LeRobot(SAMPLE, "train")
    val = lerobot.LeRobot(SAMPLE, "val")
    assert len(dataset) == 4 and len(val) == 1 and len(lerobot.LeRobot(SAMPLE, "all")) == 5
    assert dataset.cameras == ("image_primary",) and dataset.rate == 20
    assert dataset.array_shapes == {"proprio": (44,), "action": (44,)}
    texts = set()
    for recording in (*dataset, *val):
        texts.add(recording.instruction)
        assert "ego_view" in recording.footage["image_primary"].path
        np.testing.assert_allclose(recording.timestamps, np.arange(len(recording.timestamps)) / 20, atol=1e-4)
        with av.open(recording.footage["image_primary"].path) as container:
            assert container.streams.video[0].frames == len(recording.timestamps)
    assert len(texts) == 5 and "valid" not in texts
    said = "\n".join(warnings_of(caplog))
    for part in (
        "camera observation.images.egoview of info.json has no folder",
        "total_chunks in info.json is 0",
        "total_videos in info.json is 2, but there are 5",
        "'valid'); the task_index of the first row decides",
        "split train is 0:100, but episodes end at 5",
        "timestamps begin 0.05 s late",
    ):
        assert part in said


def info_of(root):
    return json.loads((root / "meta/info.json").read_text())


def feature(root, key, **changes):
    features = info_of(root)["features"]
    features[key] = {**features[key], **changes} if changes else None
    make_lerobot.edit_info(root, features={k: f for k, f in features.items() if f})


def times(root, values):
    make_lerobot.edit_column(first_parquet(root), "timestamp", np.array(values, "f4"))


def retitle(root):
    (root / "meta/episodes.jsonl").write_text(
        (root / "meta/episodes.jsonl").read_text().replace('"length": 6', '"length": 7')
    )


def stretch(root):
    path = min((root / "meta/episodes").rglob("*.parquet"))
    make_lerobot.edit_column(path, f"videos/{TOP}/to_timestamp", [0.6, 1.9])


# What disagrees, in a copy of which version, and the one line about it.
DISAGREEMENTS = [
    (
        "v3.0",
        lambda r: make_lerobot.edit_info(r, total_episodes=9),
        "total_episodes in info.json is 9, but there are 4",
    ),
    ("v2.1", retitle, "total_frames in info.json is 18, but there are 19"),
    ("v2.1", retitle, "episode 0: 6 rows, but meta/ has 7"),
    ("v3.0", lambda r: make_lerobot.edit_info(r, fps=20), "timestamps run at 10 Hz, fps is 20"),
    ("v3.0", stretch, "1 episodes have more or less video of observation.images.top than steps"),
    ("v2.1", lambda r: times(r, np.arange(6) / 10 + 7), "timestamps begin 7 s late"),
    (
        "v2.1",
        lambda r: feature(r, TOP),
        "info.json does not list observation.images.top, of which there are videos",
    ),
    (
        "v2.1",
        lambda r: feature(r, WRIST),
        "parquet files have observation.images.wrist, which info.json does not list",
    ),
    ("v2.1", lambda r: feature(r, "action", dtype="float64"), "action is float32, info.json says float64"),
    ("v2.1", lambda r: make_lerobot.edit_column(first_parquet(r), "index", None), "info.json lists index, which"),
    (
        "v2.1",
        lambda r: make_lerobot.edit_column(first_parquet(r), "task_index", [0, 0, 1, 1, 1, 1]),
        "task_index changes on the way",
    ),
]


@pytest.mark.parametrize("version, change, message", DISAGREEMENTS)
def test_disagreements_are_warned_about_once(version, change, message, copied, caplog):
    root = copied(version)
    change(root)
    dataset = lerobot.LeRobot(root, "all")
    dataset[0], dataset[1]
    assert dataset[0].arrays["action"].shape == (6, 2)
    np.testing.assert_allclose(dataset[0].timestamps, np.arange(6) / 10, atol=1e-5)
    said = warnings_of(caplog)
    assert sum(message in text for text in said) == 1
    assert all("\n" not in text for text in said)


def test_frame_index_says_where_a_cut_episode_begins(copied, caplog):
    root = copied("v2.1")
    make_lerobot.edit_column(first_parquet(root), "frame_index", np.arange(6) + 20)
    times(root, np.arange(20, 26) / 10)
    np.testing.assert_allclose(lerobot.LeRobot(root, "all")[0].timestamps, np.arange(20, 26) / 10, atol=1e-5)
    assert not warnings_of(caplog)


def test_v2_file_of_a_renumbered_episode_is_read_whole(copied):
    root = copied("v2.1")
    make_lerobot.edit_column(first_parquet(root), "episode_index", np.full(6, 77))
    np.testing.assert_array_equal(lerobot.LeRobot(root, "all")[0].arrays["action"], TOYS[0].action)


def column(key, values):
    return lambda root: make_lerobot.edit_column(first_parquet(root), key, values)


def info(**changes):
    return lambda root: make_lerobot.edit_info(root, **changes)


def overwrite(name, text):
    return lambda root: (root / name).write_text(text)


def duplicate(root):
    shutil.copy(
        root / "meta/episodes/chunk-000/file-000.parquet", root / "meta/episodes/chunk-000/file-009.parquet"
    )


def blind(root):
    shutil.rmtree(root / "videos")
    feature(root, WRIST)


# How a copy of which version is damaged, and the one line that refuses it.
REFUSALS = [
    ("v2.1", lambda r: (r / "meta/info.json").unlink(), "no .*meta/info.json; give the folder"),
    ("v2.1", overwrite("meta/info.json", "{"), "info.json is not JSON"),
    ("v2.1", overwrite("meta/info.json", "[]"), "codebase_version None"),
    ("v2.1", info(codebase_version="v1.6"), "codebase_version 'v1.6' .* none of v2.0, v2.1, v3.0; convert"),
    ("v3.0", info(fps=None), "fps None .* is no rate"),
    ("v3.0", info(fps=0), "fps 0 .* is no rate"),
    ("v3.0", info(features=None), "features .* do not map keys"),
    ("v2.1", info(chunks_size=0), "chunks_size 0"),
    ("v2.1", info(data_path=None), "data_path None .* is no path"),
    ("v2.1", info(data_path="data/{episode}.parquet"), "data_path 'data/{episode}.parquet' .* is no path"),
    ("v2.1", info(data_path="/etc/passwd"), "data_path '/etc/passwd' .* below the dataset"),
    ("v2.1", info(splits={"train": "most"}), "split 'train' is 'most'"),
    ("v2.1", info(splits={"train": "9:12"}), "split 'train' has no episode"),
    ("v2.1", lambda r: (r / "meta/episodes.jsonl").unlink(), "no .*episodes.jsonl"),
    ("v2.1", overwrite("meta/episodes.jsonl", ""), "lists no episodes"),
    ("v2.1", overwrite("meta/episodes.jsonl", '{"episode_index": 0}'), "line 1 of .* length"),
    ("v2.1", overwrite("meta/episodes.jsonl", '{"episode_index": "0", "length": 6}'), "episode_index '0'"),
    ("v2.1", overwrite("meta/tasks.jsonl", "{,}"), "line 1 of .*tasks.jsonl"),
    ("v2.1", overwrite("meta/tasks.jsonl", '{"task_index": 5, "task": "x"}'), "task_index 0 is not in the tasks"),
    ("v3.0", lambda r: shutil.rmtree(r / "meta/episodes"), "no .*meta/episodes"),
    ("v3.0", duplicate, "episode 0 is twice in .*meta/episodes"),
    ("v2.1", lambda r: last_parquet(r).unlink(), "no file .*episode_000003.parquet; fetch"),
    ("v3.0", lambda r: last_parquet(r).unlink(), "no file .*file-001.parquet; fetch"),
    ("v3.0", lambda r: next(r.rglob("*.mp4")).unlink(), "no file .*file-000.mp4; fetch"),
    ("v2.1", lambda r: first_parquet(r).write_bytes(b"PAR1" * 40), "damaged or not parquet"),
    (
        "v2.1",
        lambda r: first_parquet(r).write_bytes(first_parquet(r).read_bytes()[:-300]),
        "damaged or not parquet",
    ),
    ("v3.0", lambda r: make_lerobot.edit_column(first_parquet(r), "episode_index", np.full(14, 9)), "no row of it"),
    ("v3.0", column("action", None), "no column 'action' among its 7; correct meta/info.json"),
    ("v3.0", column("timestamp", None), "no column 'timestamp'"),
    ("v2.1", column(WRIST, None), "no column 'observation.images.wrist'"),
    ("v2.1", column("action", [[1.0]] * 6), r"action has 1 values a step, info.json says \[2\]"),
    ("v2.1", column("action", [[1, 2]] * 6), "action is int64, info.json says float32"),
    ("v2.1", column("action", [[1.0, 2.0]] * 5 + [[1.0]]), "'action' has 2 values in row 0 and 1 in row 5"),
    ("v2.1", column("action", [[[1.0, 2.0]]] * 6), "'action' holds .*not numbers"),
    ("v2.1", column("action", ["left"] * 6), "'action' holds string, not numbers"),
    ("v2.1", column("action", [[1.0, None]] * 6), "'action' has 6 missing values"),
    ("v2.1", column("action", [[1.0, 2.0]] * 5 + [None]), "'action' has 1 missing values"),
    ("v2.1", lambda r: feature(r, "action", shape=[2, 1]), r"shape \[2, 1\] of action"),
    ("v2.1", column("timestamp", [0, 0.1, 0.2, np.nan, 0.4, 0.5]), "timestamp nan in row 3"),
    ("v2.1", column("timestamp", [0, 0.1, 0.2, 0.1, 0.4, 0.5]), r"timestamp 0.1\S* in row 3 .* not later"),
    ("v2.1", column("timestamp", [0, 0.1, 0.1, 0.2, 0.4, 0.5]), r"timestamp 0.1\S* in row 2 .* not later"),
    ("v2.1", column("timestamp", [[0.0, 1.0]] * 6), "'timestamp' has 2 values a row"),
    ("v2.1", column(WRIST, [{"bytes": None, "path": "a.png"}] * 6), "row 0 of .*wrist' has no image bytes"),
    ("v2.1", column(WRIST, [{"bytes": b"x", "path": ""}] * 5 + [None]), "row 5 of .*wrist' has no image bytes"),
    ("v2.1", column(WRIST, [1] * 6), "wrist' holds int64, not images"),
    ("v2.1", blind, "no camera with frames among its features"),
    ("v3.0", blind, "no camera with frames among its features"),
]


@pytest.mark.parametrize("version, damage, message", REFUSALS)
def test_refusals_are_one_line(version, damage, message, copied):
    root = copied(version)
    damage(root)
    with pytest.raises(errors.UserError, match=message) as refused:
        lerobot.LeRobot(root, "train")
        for _ in lerobot.LeRobot(root, "all"):
            pass
    assert "\n" not in str(refused.value)


def test_damage_in_a_later_episode_shows_when_it_is_read(copied):
    root = copied("v2.1")
    make_lerobot.edit_column(last_parquet(root), "action", [[np.float32(1)]] * 4)
    dataset = lerobot.LeRobot(root, "all")
    dataset[2]
    with pytest.raises(errors.UserError, match="episode_000003.parquet, episode 3: action has 1 values"):
        dataset[3]


def test_unknown_split(written):
    with pytest.raises(errors.UserError, match="no split 'test'; choose one of train, val, all"):
        lerobot.LeRobot(written["v2.1"], "test")


def test_missing_pyarrow_names_the_extra(written, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(errors.UserError, match=r"needs pyarrow; run `pip install 'lapa_jax\[lerobot\]'`"):
        lerobot.LeRobot(written["v3.0"], "all")
