"""Sources of human video: what they find, in which split, with which instruction, and what they refuse."""

import json
import logging
import os
import pickle
from pathlib import Path

import make_videos
import numpy as np
import pytest
from PIL import Image

from lapa_jax import errors
from lapa_jax.data.video import folders as video
from lapa_jax.data.video import instructions, recordings

VIDEOS = Path(__file__).resolve().parents[3] / "shared/data/videos"


def something(root, *, labels="something-something-v2-{}.json", videos="20bn-something-something-v2"):
    """A folder as Something-Something V2 is distributed: 3 train, 2 validation and 1 test video."""
    ids = {"train": ["101", "7", "33"], "validation": ["5", "64"], "test": ["9"]}
    for split, numbers in ids.items():
        entries = [
            {"id": n, "label": f"pushing cup {n}", "template": "Pushing [something]", "placeholders": [f"cup {n}"]}
            for n in numbers
        ]
        path = root / labels.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([{"id": e["id"]} for e in entries] if split == "test" else entries))
        for number in numbers:
            make_videos.write(root / videos / f"{number}.webm", make_videos.counters(4))
    return root


@pytest.mark.parametrize("labels", ("something-something-v2-{}.json", "labels/{}.json"))
@pytest.mark.parametrize("videos", ("20bn-something-something-v2", "."))
def test_something_something_as_distributed(tmp_path, labels, videos):
    root = something(tmp_path, labels=labels, videos=videos)
    train = video.open_recordings(root, "train")
    assert isinstance(train, video.SomethingSomething) and train.name == "something_something_v2"
    assert [train[i].instruction for i in range(3)] == ["pushing cup 101", "pushing cup 7", "pushing cup 33"]
    assert Path(train[1].footage["image_primary"].path) == (root / videos / "7.webm").resolve()
    assert train[1].timestamps is None and train.rate is None and train.cameras == ("image_primary",)
    val, validation = video.SomethingSomething(root, "val"), video.SomethingSomething(root, "validation")
    assert len(val) == 2 and [v.id for v in val] == [v.id for v in validation]
    test = video.SomethingSomething(root, "test")
    assert (len(test), test[0].instruction) == (1, "")
    assert len(video.open_recordings(root, "all")) == 5


def test_labels_beside_the_folder_of_videos_are_found(tmp_path):
    root = something(tmp_path)
    source = video.open_recordings(root / "20bn-something-something-v2", "val", name="ssv2")
    assert isinstance(source, video.SomethingSomething) and (len(source), source.name) == (2, "ssv2")


def test_missing_videos_are_counted(tmp_path, caplog):
    root = something(tmp_path)
    (root / "20bn-something-something-v2/7.webm").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(video.SomethingSomething(root, "train")) == 2
    assert len(caplog.records) == 1 and "1 of the 3 videos" in caplog.text and "7.webm" in caplog.text
    for path in root.rglob("*.webm"):
        path.unlink()
    with pytest.raises(errors.UserError, match="none of the 3 videos of split 'train'.*unpack"):
        video.SomethingSomething(root, "train")


def test_label_files_of_another_shape_are_named(tmp_path):
    root, path = something(tmp_path), tmp_path / "something-something-v2-train.json"
    for text, message in (
        ('{"101": "push"}', "dict instead of a list"),
        ('[{"id": "101"}]', 'entry 0: needs an "id" and a "label"'),
        ('[{"id": "101", "label": "x"}, 7]', "entry 1"),
        ('[{"id": "101",\n "label": }]', "line 2: no JSON"),
        ("[]", "are empty"),
    ):
        path.write_text(text)
        with pytest.raises(errors.UserError, match=message):
            video.SomethingSomething(root, "train")
    path.write_bytes('[{"id": "101",\n"label": "Tür schließen"}]'.encode("latin-1"))
    with pytest.raises(errors.UserError, match="train.json, line 2: not UTF-8"):
        video.SomethingSomething(root, "train")
    path.unlink()
    with pytest.raises(errors.UserError, match="no something-something-v2-train.json"):
        video.SomethingSomething(root, "train")
    with pytest.raises(errors.UserError, match="no split 'dev'"):
        video.SomethingSomething(root, "dev")


def folder_of_videos(root):
    """Not decoded by these tests, so that any bytes do."""
    for name in ("a/2.mp4", "a/10.webm", "b/c/1.MOV", "b/3.mkv", "4.avi", ".hidden/5.mp4", "notes.txt", "._6.mp4"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_video_folder_finds_videos_at_any_depth(tmp_path):
    source = video.open_recordings(folder_of_videos(tmp_path / "My Kitchen-2"), "all")
    assert isinstance(source, video.VideoFolder) and source.name == "my_kitchen_2"
    assert [r.id for r in source] == ["4.avi", "a/2.mp4", "a/10.webm", "b/3.mkv", "b/c/1.MOV"]
    assert {r.instruction for r in source} == {""}


def test_splits_are_disjoint_and_cover_everything(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.mp4").touch()
    ids = {split: {r.id for r in video.VideoFolder(tmp_path, split)} for split in ("train", "val", "all")}
    assert ids["train"] | ids["val"] == ids["all"] and not ids["train"] & ids["val"] and len(ids["val"]) == 2
    with pytest.raises(errors.UserError, match="no split 'test'"):
        video.VideoFolder(tmp_path, "test")


def test_links_that_lead_in_circles_end(tmp_path):
    root = folder_of_videos(tmp_path)
    os.symlink(root, root / "a/again")
    os.symlink(root / "nowhere.mp4", root / "broken.mp4")
    assert len(video.VideoFolder(root, "all")) == 6
    assert video.VideoFolder(root, "all").fingerprint


@pytest.mark.parametrize(
    "name, text",
    (
        ("instructions.jsonl", '{"file": "a/2.mp4", "instruction": "schließ die Tür"}\n\n'
         '{"file": "3.mkv", "instruction": "wave"}\n'),
        ("instructions.json", '{"a/2.mp4": "schließ die Tür", "3.mkv": "wave"}'),
        ("instructions.json", '[{"file": "a/2.mp4", "instruction": "schließ die Tür"}, '
         '{"file": "b/3.mkv", "instruction": "wave"}]'),
    ),
)  # fmt: skip
@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig"))
def test_instructions(tmp_path, name, text, encoding):
    root = folder_of_videos(tmp_path)
    (root / name).write_text(text, encoding=encoding)
    found = {r.id: r.instruction for r in video.VideoFolder(root, "all")}
    assert found["a/2.mp4"] == "schließ die Tür" and found["b/3.mkv"] == "wave" and found["4.avi"] == ""


@pytest.mark.parametrize(
    "name, raw, message",
    (
        ("instructions.jsonl", b'{"file": "a", "instruction": "x"}\n{"file": "b"}', "line 2: .*is not"),
        ("instructions.jsonl", b'{"file": "a", "instruction": ["x"]}', "line 1: "),
        ("instructions.jsonl", b'\n{"file": "a", "instruction": "x"', "line 2: no JSON"),
        ("instructions.jsonl", '{"file": "ä"}'.encode("utf-16"), "line 1: not UTF-8"),
        ("instructions.json", b'{"a": 3}', "is not"),
        ("instructions.json", b'"a"', "holds a JSON str"),
        ("instructions.json", b"[" * 100000, "line 1: "),
        ("instructions.json", b'[{"file": "a", "instruction": "x"}, {}]', "entry 1"),
        (
            "instructions.jsonl",
            b'{"file": "a", "instruction": "x"}\n{"file": "a", "instruction": "y"}',
            "line 2.*two",
        ),
        ("instructions.jsonl", b"[1]\n", "line 1"),
    ),
)
def test_bad_instructions_are_named_with_their_line(tmp_path, name, raw, message):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(errors.UserError, match=f"{name}.*{message}") as caught:
        instructions.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_instructions_that_fit_no_file_or_two(tmp_path, caplog):
    root = folder_of_videos(tmp_path)
    (root / "instructions.json").write_text('{"gone.mp4": "wave"}')
    with caplog.at_level(logging.WARNING):
        video.VideoFolder(root, "all")
    assert "1 names have no file here, the first is gone.mp4" in caplog.text
    assert "5 files have no instruction" in caplog.text
    (root / "b/2.mp4").touch()
    (root / "instructions.json").write_text('{"2.mp4": "wave"}')
    with pytest.raises(errors.UserError, match="2.mp4 could be a/2.mp4 or b/2.mp4"):
        video.VideoFolder(root, "all")


def frame_folders(root):
    for clip, count in (("one", 12), ("two/left", 3)):
        (root / clip).mkdir(parents=True)
        for i in range(1, count + 1):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / clip / f"img_{i:05d}.jpg")
    return root


def test_frame_folders(tmp_path):
    root = frame_folders(tmp_path / "frames")
    (root / "instructions.jsonl").write_text('{"file": "one", "instruction": "push"}')
    source = video.open_recordings(root, "all", rate=5)
    assert isinstance(source, video.FrameFolders) and source.rate == 5
    assert [(r.id, r.instruction) for r in source] == [("one", "push"), ("two/left", "")]
    np.testing.assert_allclose(source[1].timestamps, [0, 0.2, 0.4])
    with pytest.raises(errors.UserError, match="no rate of their own"):
        video.open_recordings(root, "all")


def test_folders_without_videos_are_named(tmp_path):
    with pytest.raises(errors.UserError, match="no folder .*nothing"):
        video.open_recordings(tmp_path / "nothing", "train")
    with pytest.raises(errors.UserError, match="no videos .*and no folders of images"):
        video.open_recordings(tmp_path, "train")


@pytest.mark.parametrize("kind", ("something", "videos", "frames"))
def test_fingerprints_follow_the_files(tmp_path, kind):
    def opened():
        return video.open_recordings(tmp_path, "all", rate=5)

    {"something": something, "videos": folder_of_videos, "frames": frame_folders}[kind](tmp_path)
    first = opened()
    assert first.fingerprint == opened().fingerprint == pickle.loads(pickle.dumps(first)).fingerprint
    path = Path(first[0].footage["image_primary"].path)
    path = next(path.iterdir()) if path.is_dir() else path
    path.write_bytes(path.read_bytes() + b"more")
    assert opened().fingerprint != first.fingerprint
    if kind == "videos":
        changed = opened().fingerprint
        (tmp_path / "instructions.json").write_text('{"4.avi": "wave"}')
        assert opened().fingerprint != changed


def test_sources_can_be_pickled(tmp_path):
    source = video.open_recordings(folder_of_videos(tmp_path), "all")
    copy = pickle.loads(pickle.dumps(source))
    assert [r.id for r in copy] == [r.id for r in source] and isinstance(copy[0], recordings.Recording)


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="no ../shared/data/videos")
def test_real_folder():
    source = video.open_recordings(VIDEOS, "all")
    found = {r.id: r.instruction for r in source}
    assert found["rt1_00083655.mp4"] == "close top drawer" and found["hands_blocks.mp4"] == ""
