"""The index against a full decode by TFDS, and against everything that may happen to the shards."""

import io
import json
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image

from lapa_jax import errors
from lapa_jax.data import rlds
from lapa_jax.data.stored import features, indexing, records, schema, storage

F = tfds.features
STEPS = {
    "observation": {
        "image": F.Image(shape=(8, 8, 3), encoding_format="png"),
        "image_wrist": F.Image(shape=(None, None, 3), encoding_format="png"),
        "depth": F.Image(shape=(8, 8, 1), dtype=np.uint16, encoding_format="png"),
        "state": F.Tensor(shape=(7,), dtype=np.float32),
        "matrix": F.Tensor(shape=(2, 3), dtype=np.float64),
        "packed": F.Tensor(shape=(2, 2), dtype=np.float64, encoding="zlib"),
        "raw": F.Tensor(shape=(3,), dtype=np.uint16, encoding="bytes"),
        "embedding": F.Tensor(shape=(512,), dtype=np.float32),
        "instruction": F.Tensor(shape=(12,), dtype=np.int32),
        "label": F.ClassLabel(num_classes=5),
        "box": F.BBoxFeature(),
        "count": np.int32,
        "big": np.uint64,
        "small": np.uint8,
    },
    "action": {
        "world_vector": F.Tensor(shape=(3,), dtype=np.float32),
        "terminate": F.Tensor(shape=(3,), dtype=np.int32),
    },
    "reward": np.float32,
    "is_first": np.bool_,
    "is_last": np.bool_,
    "language_instruction": F.Text(),
    "note": F.Tensor(shape=(), dtype=np.object_),
}
EPISODE = {"file_path": F.Text(), "seed": np.int64, "success": np.bool_}
ALL = F.FeaturesDict({"steps": F.Dataset(STEPS), "episode_metadata": EPISODE})


def codes(text):
    return np.array([*map(ord, text), *[0] * (12 - len(text))], np.int32)


def episode(seed, steps):
    rng = np.random.default_rng(seed)

    def noise(*shape, dtype=np.uint8):
        return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)

    def image(*shape, dtype=np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(noise(*shape, dtype=dtype)).save(buffer, "PNG")
        return buffer.getvalue()

    rows = [
        {
            "observation": {
                "image": image(8, 8, 3),
                "image_wrist": image(5 + t, 6, 3),
                "depth": image(8, 8, dtype=np.uint16),
                "state": rng.normal(size=7).astype(np.float32),
                "matrix": rng.normal(size=(2, 3)),
                "packed": rng.normal(size=(2, 2)),
                "raw": noise(3, dtype=np.uint16),
                "embedding": rng.normal(size=512).astype(np.float32),
                "instruction": codes("püsh ☃"),
                "label": int(rng.integers(5)),
                "box": F.BBox(0.0, 0.25, 0.5, 1.0),
                "count": -int(rng.integers(1 << 30)),
                "big": np.uint64(2**64 - 1 - t),
                "small": np.uint8(255),
            },
            "action": {
                "world_vector": rng.normal(size=3).astype(np.float32),
                "terminate": np.array([0, 1, -t], np.int32),
            },
            "reward": np.float32(t),
            "is_first": t == 0,
            "is_last": t == steps - 1,
            "language_instruction": f"do {seed} ü",
            "note": f"note {seed}",
        }
        for t in range(steps)
    ]
    return {
        "steps": rows,
        "episode_metadata": {"file_path": f"/raw/{seed}", "seed": -seed, "success": bool(seed % 2)},
    }


ENCODED = {name: tfds.decode.SkipDecoding() for name in ("image", "image_wrist", "depth")}
SHARDS = ([(0, 3), (1, 1), (2, 5)], [(3, 0), (4, 2)], [(5, 4)])


@pytest.fixture(scope="module")
def encoded():
    return [[ALL.serialize_example(episode(*one)) for one in shard] for shard in SHARDS]


def write(folder, rows, file_format, tree=ALL):
    """A TFDS folder with these records, one list a shard."""
    folder.mkdir(parents=True)
    suffix = "array_record" if file_format != "tfrecord" else "tfrecord"
    for i, shard in enumerate(rows):
        path = folder / f"toy-train.{suffix}-{i:05d}-of-{len(rows):05d}"
        if file_format == "tfrecord":
            path.write_bytes(b"".join(frame(row) for row in shard))
            continue
        options = "group_size:1" + (",uncompressed" if file_format == "uncompressed" else "")
        writer = array_record_module.ArrayRecordWriter(str(path), options)
        for row in shard:
            writer.write(row)
        writer.close()
    (folder / "features.json").write_text(json.dumps(tree.to_json()))
    split = {
        "name": "train",
        "shardLengths": [str(len(shard)) for shard in rows],
        "numBytes": "1",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "toy", "version": "1.0.0", "fileFormat": suffix, "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def frame(row):
    length = struct.pack("<Q", len(row))
    return length + struct.pack("<I", records.masked_crc(length)) + row + struct.pack("<I", records.masked_crc(row))


def opened(folder, cache, **options):
    options.setdefault("progress", False)
    return rlds.open_index(rlds.open_dataset(folder), "train", str(cache), **options)


@pytest.fixture(params=["tfrecord", "array_record", "uncompressed"])
def dataset(request, tmp_path, encoded):
    return write(tmp_path / "toy" / "1.0.0", encoded, request.param)


def test_all_that_is_indexed_is_what_tfds_decodes(dataset, encoded, tmp_path):
    found = opened(dataset, tmp_path / "cache")
    flat = [row for shard in encoded for row in shard]
    assert len(found) == len(flat) and found.episodes["steps"].tolist() == [n for shard in SHARDS for _, n in shard]
    kinds = {column.name: column.kind for column in found.columns.values()}
    assert {name for name, kind in kinds.items() if kind == "left"} == {"observation/embedding"}
    texts = {name: found.texts(name) for name, kind in kinds.items() if kind in ("text", "codes")}
    checked = set()
    for e, record in enumerate(flat):
        assert found.record(e) == record
        decoded = ALL.deserialize_example_np(record, decoders={"steps": {"observation": ENCODED}})
        steps = list(decoded["steps"])
        start = int(found.episodes["start"][e])
        for t, step in enumerate(steps):
            for name, value in flatten(step).items():
                if kinds[name] == "image":
                    assert found.frame(name, e, t) == value
                elif kinds[name] == "array":
                    row = found.mapped(name)[start + t]
                    assert row.dtype == np.asarray(value).dtype and row.tobytes() == np.asarray(value).tobytes(), (
                        name
                    )
                elif kinds[name] == "text" and t == 0:
                    assert texts[name][e] == value.decode()
                checked.add(name)
        for name, value in flatten(decoded["episode_metadata"], "episode_metadata/").items():
            read = texts[name][e] if kinds[name] == "text" else found.mapped(name)[e]
            assert read == (value.decode() if kinds[name] == "text" else value)
        if steps:
            assert texts["observation/instruction"][e] == "püsh ☃"
    assert checked == {name for name in kinds if not name.startswith("episode_metadata")}


def flatten(tree, prefix=""):
    flat = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value})
    return flat


def test_formats_and_shards_do_not_matter_to_the_contents(encoded, tmp_path):
    one = [[row for shard in encoded for row in shard]]
    folders = [
        write(tmp_path / str(i), rows, form)
        for i, (rows, form) in enumerate([(encoded, "tfrecord"), (encoded, "array_record"), (one, "uncompressed")])
    ]
    digests = [opened(folder, tmp_path / "cache").about["digests"] for folder in folders]
    assert digests[0] == digests[1] == digests[2]
    other = [encoded[0][::-1], *encoded[1:]]
    assert opened(write(tmp_path / "other", other, "tfrecord"), tmp_path / "cache").about["digests"] != digests[0]


def test_processes_and_one_process_make_the_same_index(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "_SMALL", 0)
    serial = opened(dataset, tmp_path / "a", workers=1)
    parallel = opened(dataset, tmp_path / "b", workers=2)
    for path in sorted(os.listdir(serial.folder)):
        assert open(f"{serial.folder}/{path}", "rb").read() == open(f"{parallel.folder}/{path}", "rb").read()


def test_an_index_is_built_once_and_pickles_small(dataset, tmp_path, monkeypatch):
    first = opened(dataset, tmp_path / "cache")
    first.frame("observation/image", 2, 4)
    again = pickle.loads(pickle.dumps(first))
    assert len(pickle.dumps(first)) < 2000 and again.frame("observation/image", 2, 4) == first.frame(
        "observation/image", 2, 4
    )
    monkeypatch.setattr(indexing, "_build_parts", None)
    assert opened(dataset, tmp_path / "cache").folder == first.folder
    assert not list((tmp_path / "cache" / "data" / "parts").iterdir())


def test_two_processes_may_build_the_same_index(dataset, tmp_path, monkeypatch):
    real = indexing._merge

    def overtaken(*args):
        with monkeypatch.context() as patch:
            patch.setattr(indexing, "_merge", real)
            opened(dataset, tmp_path / "cache")  # the other one, from beginning to end
        real(*args)

    monkeypatch.setattr(indexing, "_merge", overtaken)
    assert len(opened(dataset, tmp_path / "cache")) == 6
    assert [path.name for path in (tmp_path / "cache/data").iterdir() if "partial" in path.name] == []


def test_a_killed_build_continues(dataset, tmp_path, monkeypatch):
    real, built = indexing._build_part, []

    def killed(plan, shard, *rest):
        if len(built) == 2:
            raise KeyboardInterrupt
        built.append(shard)
        real(plan, shard, *rest)

    monkeypatch.setattr(indexing, "_build_part", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(dataset, tmp_path / "cache")
    built.clear()
    assert len(opened(dataset, tmp_path / "cache")) == 6 and built == [2]


def test_changed_shards_are_indexed_anew_and_only_they(dataset, tmp_path, encoded, monkeypatch):
    first = opened(dataset, tmp_path / "cache")
    shard = sorted(dataset.glob("toy-train*"))[0]
    os.utime(shard, ns=(1, 1))
    assert opened(dataset, tmp_path / "cache").folder != first.folder


def test_a_shard_changed_behind_an_open_index_is_never_a_wrong_frame(dataset, tmp_path):
    found = opened(dataset, tmp_path / "cache")
    shard = sorted(dataset.glob("toy-train*"))[0]
    shard.write_bytes(bytes(255 - byte for byte in shard.read_bytes()))
    records.forget()
    with pytest.raises(errors.UserError, match="to index it anew|was the dataset changed"):
        found.frame("observation/image", 0, 0)
    shard.unlink()
    records.forget()
    with pytest.raises(errors.UserError, match="was the dataset changed"):
        found.frame("observation/image", 0, 1)


def test_damage_is_fatal_or_left_out_by_choice(tmp_path, encoded, caplog):
    folder = write(tmp_path / "toy", encoded, "tfrecord")
    shard = sorted(folder.glob("*tfrecord*"))[0]
    whole = bytearray(shard.read_bytes())
    whole[len(frame(encoded[0][0])) + 600] ^= 4  # inside the second record
    shard.write_bytes(whole)
    with pytest.raises(errors.UserError, match=rf"{shard.name} at byte \d+: the checksum .*on_damage='skip'"):
        opened(folder, tmp_path / "cache")
    for _ in range(2):  # at each opening
        caplog.clear()
        found = opened(folder, tmp_path / "cache", on_damage="skip")
        assert "left out" in caplog.text and shard.name in caplog.text
    assert len(found) == 5 and found.record(0) == encoded[0][0] and found.record(1) == encoded[0][2]
    assert found.frame("observation/image", 1, 4) == opened(
        write(tmp_path / "good", encoded, "tfrecord"), tmp_path / "cache"
    ).frame("observation/image", 2, 4)


def test_a_missing_record_or_shard_is_named(tmp_path, encoded):
    folder = write(tmp_path / "toy", encoded, "tfrecord")
    shard = sorted(folder.glob("*tfrecord*"))[1]
    shard.write_bytes(frame(encoded[1][0]))
    with pytest.raises(errors.UserError, match=r"holds 1 records and should hold 2"):
        opened(folder, tmp_path / "cache")
    shard.unlink()
    with pytest.raises(errors.UserError, match=f"cannot read .*{shard.name}"):
        opened(folder, tmp_path / "cache")


def test_a_record_that_is_not_as_features_say_is_named(tmp_path, encoded):
    fewer = F.FeaturesDict({"steps": F.Dataset({"action": F.Tensor(shape=(2,), dtype=np.float32)})})
    bad = fewer.serialize_example({"steps": [{"action": np.zeros(2, np.float32)}]})
    folder = write(tmp_path / "toy", [[encoded[0][0], bad]], "tfrecord")
    with pytest.raises(errors.UserError, match=r"record 1\).*is not in the record"):
        opened(folder, tmp_path / "cache")
    wider = F.FeaturesDict({"steps": F.Dataset({"action": F.Tensor(shape=(4,), dtype=np.float32)})})
    folder = write(tmp_path / "wide", [[bad]], "tfrecord", wider)
    with pytest.raises(errors.UserError, match="steps/action has 2 numbers, no multiple of its shape"):
        opened(folder, tmp_path / "cache")
    with pytest.raises(errors.UserError, match="on_damage 'ignore'"):
        opened(folder, tmp_path / "cache", on_damage="ignore")


def test_tfrecords_are_read_from_any_filesystem(tmp_path, encoded):
    import fsspec

    folder = write(tmp_path / "toy", encoded, "tfrecord")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/toy", recursive=True)
    local = opened(folder, tmp_path / "b")
    for url in ("memory://bucket/toy", "memory://bucket", f"file://{folder}"):
        remote = opened(url, tmp_path / "a")
        assert remote.about["digests"] == local.about["digests"]
        assert remote.frame("observation/image", 2, 3) == local.frame("observation/image", 2, 3)


def test_code_points_that_are_none_are_named():
    with pytest.raises(schema.Mismatch, match="instruction holds numbers that are no Unicode.*1114112"):
        schema.from_codes(np.array([65, 0x110000]), "instruction")


def test_features_of_both_forms_are_read():
    old = {
        "type": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "content": {
            "steps": {
                "type": "tensorflow_datasets.core.features.dataset_feature.Dataset",
                "content": {
                    "length": None,
                    "feature": {
                        "type": "x.FeaturesDict",
                        "content": {
                            "image": {
                                "type": "x.Image",
                                "content": {"shape": [4, None, 3], "dtype": "uint8", "encoding_format": "png"},
                            },
                            "action": {
                                "type": "x.Tensor",
                                "content": {"shape": [2], "dtype": "float32", "encoding": "none"},
                            },
                            "clip": {"type": "x.Video", "content": {"shape": [None, 4, 4, 3]}},
                            "points": {
                                "type": "x.Sequence",
                                "content": {"feature": {"type": "x.Text", "content": {}}},
                            },
                            "language_instruction": {"type": "x.Text", "content": {}},
                        },
                    },
                },
            }
        },
    }
    columns = {c.name: c for c in schema.columns(features.read(json.dumps(old), "here"))}
    assert {n: c.kind for n, c in columns.items()} == {
        "image": "image",
        "action": "array",
        "clip": "left",
        "points": "left",
        "language_instruction": "text",
    }
    assert columns["image"].shape == (4, -1, 3) and columns["action"].dtype == "float32"
    for text, message in [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps(F.FeaturesDict({"a": np.int64}).to_json()), "no `steps`"),
    ]:
        with pytest.raises(errors.UserError, match=message):
            features.read(text, "here")


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_published_bridge_sample(shared, split, tmp_path):
    folder = shared / "data" / "bridge_dataset" / "1.0.0"
    found = rlds.open_index(rlds.open_dataset(folder), split, str(tmp_path))
    builder = tfds.builder_from_directory(str(folder))
    skip = tfds.decode.SkipDecoding()
    decoders = {"steps": {"observation": {f"image_{i}": skip for i in range(4)}}}
    path = str(folder / f"bridge_dataset-{split}.tfrecord-00000-of-00001")
    for e, record in enumerate(records.scan(path, "tfrecord")):
        steps = list(builder.info.features.deserialize_example_np(record.data, decoders=decoders)["steps"])
        for t, step in enumerate(steps):
            for i in range(4):
                assert found.frame(f"observation/image_{i}", e, t) == step["observation"][f"image_{i}"]
            row = int(found.episodes["start"][e]) + t
            np.testing.assert_array_equal(found.mapped("action")[row], step["action"])
            np.testing.assert_array_equal(found.mapped("observation/state")[row], step["observation"]["state"])
        assert found.texts("language_instruction")[e] == steps[0]["language_instruction"].decode()
    assert (len(found), found.num_steps) == (25, 250)


def test_sidecars_never_go_into_the_dataset(dataset, tmp_path):
    before = sorted(path.name for path in dataset.iterdir())
    opened(dataset, tmp_path / "cache")
    assert sorted(path.name for path in dataset.iterdir()) == before
    assert storage.cache_folder(str(tmp_path / "cache")) == tmp_path / "cache" / "data"
    shutil.rmtree(tmp_path / "cache")
    assert len(opened(dataset, tmp_path / "cache")) == 6
