"""Sidecars that were cut, flipped or half removed, and settings that make no sense: never wrong data."""

import json
import shutil

import pytest

from lapa_jax import errors
from lapa_jax.data import rlds, sources


@pytest.fixture
def data(load_config, tabletop_dataset, tmp_path):
    def make(**changes):
        changes = {f"data.{key}": value for key, value in {"directory": str(tabletop_dataset), **changes}.items()}
        return load_config("train_laq", **{"data.cache": str(tmp_path), **changes}).data

    return make


def actions(data):
    (found,) = sources.open_mixture(data(), "train", "robot").members
    return [found["action"][e].tobytes() for e in range(3)], found.instructions


@pytest.fixture
def index(data, tmp_path):
    good = actions(data)
    (folder,) = (tmp_path / "data").glob("tabletop-train-*")
    return folder, good


@pytest.mark.parametrize(
    "name", ["index.json", "episodes.npy", "column.action.npy", "column.language_instruction.json"]
)
def test_a_cut_or_missing_file_is_built_again(name, index, data, caplog):
    folder, good = index
    whole = (folder / name).read_bytes()
    for left in (whole[: len(whole) // 2], b"", b'{"a": 1}', None):
        if left is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(left)
        caplog.clear()
        assert actions(data) == good and "is damaged; it is built anew" in caplog.text


@pytest.mark.parametrize("name", ["episodes.npy", "column.action.npy", "column.language_instruction.json"])
def test_a_flipped_bit_is_named(name, index, data):
    folder, _ = index
    whole = bytearray((folder / name).read_bytes())
    whole[-3] ^= 1
    (folder / name).write_bytes(whole)
    with pytest.raises(errors.UserError, match=rf"{name} is damaged; remove {folder}"):
        actions(data)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cache": "{file}"}, "cannot make the folder .*choose one that can be written"),
        ({"cache": "memory://x"}, "data.cache memory://x is a URL"),
        ({"rate": 0.0}, "data.rate 0.0 is no number of steps a second"),
        ({"rate": float("nan")}, "data.rate nan"),
        ({"directory": ""}, "data.directory is empty"),
        ({"directory": "{file}"}, "no dataset at .*file .it is a file."),
        ({"mixture": "{dataset}=1,{dataset}/tabletop=1"}, "hold the same data; name it once"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, message, data, tabletop_dataset, tmp_path):
    (tmp_path / "file").write_text("x")
    places = {"file": tmp_path / "file", "dataset": tabletop_dataset}
    changes = {key: value.format(**places) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(errors.UserError, match=message) as caught:
        sources.open_mixture(data(**changes), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": 3}, "is no text"),
        ({"splits": []}, "names no split"),
        ({"filepathTemplate": "/etc/passwd"}, "is not one that TFDS writes"),
        ({"filepathTemplate": "{DATASET.x}"}, "is not one that TFDS writes"),
        ({"shardLengths": ["-1"]}, "shardLengths"),
        ({"shardLengths": "25"}, "shardLengths"),
    ],
)
def test_a_dataset_info_that_lies_is_refused(change, message, tabletop_dataset, tmp_path):
    folder = shutil.copytree(rlds.find_dataset(tabletop_dataset), tmp_path / "copy")
    info = json.loads((folder / "dataset_info.json").read_text())
    for key, value in change.items():
        if key in info:
            info[key] = value
        for split in info["splits"]:
            split.update({key: value})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(errors.UserError, match=message):
        rlds.open_episodes(folder, "train", cache=str(tmp_path / "cache"))


@pytest.mark.parametrize("text", ["{", '{"rate_hz": "x"}', '{"rate_hz": -1}', "[]"])
def test_a_lapa_json_that_lies_is_refused(text, tabletop_dataset, tmp_path):
    folder = shutil.copytree(rlds.find_dataset(tabletop_dataset), tmp_path / "copy")
    (folder / "lapa.json").write_text(text)
    with pytest.raises(errors.UserError, match="lapa.json beside it"):
        rlds.open_episodes(folder, "train", cache=str(tmp_path / "cache"))


def test_a_parent_of_several_sources_is_refused(tabletop_dataset, tmp_path, data):
    shutil.copytree(tabletop_dataset, tmp_path / "all" / "table")
    (tmp_path / "all" / "videos").mkdir()
    (tmp_path / "all" / "videos" / "a.mp4").write_bytes(b"")
    with pytest.raises(errors.UserError, match="holds an RLDS dataset and .*videos beside it"):
        sources.open_mixture(data(directory=str(tmp_path / "all")), "train")
    (tmp_path / "all" / "table" / "tabletop" / "1.0.0" / "dataset_info.json").unlink()
    with pytest.raises(errors.UserError, match="has features.json and no dataset_info.json"):
        sources.open_mixture(data(directory=str(tmp_path / "all" / "table")), "train")
