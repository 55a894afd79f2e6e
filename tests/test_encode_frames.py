"""encode_frames as a person launches it, at toy size on 8 devices: on disk is what encoding on the fly gives."""

import json
import pathlib

import einops
import jax
import numpy as np
import pytest

from lapa_jax import errors, sharding, trained
from lapa_jax.convert import towers
from lapa_jax.data import encoded, official_images, rlds
from lapa_jax.models import image_tokens, vision

GOLD = pathlib.Path(__file__).parent / "models" / "gold_vision"
TOWER, IMAGEBIND = str(GOLD / "siglip"), str(GOLD / "imagebind" / "imagebind.pth")


@pytest.fixture(scope="module")
def data(tabletop_dataset):
    return {"data.directory": str(tabletop_dataset)}


@pytest.fixture(scope="module")
def tokenizer(tiny_run):
    """Folder of a tokenizer that has seen four batches."""
    return tiny_run("train_tokenizer")


@pytest.fixture(scope="module")
def ids(run_program, data, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids")
    run_program("encode_frames", folder, encoder=str(tokenizer), **data)
    return folder


def on_the_fly(folder, frames):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        return np.asarray(image_tokens.encode_frames(trained.load_tokenizer(folder, mesh), frames))


def test_ids_of_all_frames_of_all_splits(ids, tokenizer, tabletop_dataset):
    for split in ("train", "val"):
        video = rlds.open_episodes(tabletop_dataset, split)
        found = encoded.open_encoded(ids / split, video)
        assert (found.shape, found.dtype, found.num_codes) == ((64,), np.uint16, 16) and found.image_size == 32
        steps = [(e, t) for e in range(len(video)) for t in range(video.lengths[e])]
        stored = np.stack([found.frame(*at) for at in steps])
        np.testing.assert_array_equal(
            stored, on_the_fly(tokenizer, np.stack([video.frame(*at, 32) for at in steps]))
        )
        assert len(np.unique(stored)) > 1
        summary = json.loads((ids / split / "summary.json").read_text())
        assert summary["frames"] == video.num_frames and summary["bytes_per_frame"] == 128
        assert summary["dtype"] == "uint16" and summary["frames_per_second"] > 0
    assert found.provenance == {**found.provenance, "kind": "tokenizer", "ids": True, "image_size": 32}
    assert found.provenance["weights"].endswith("at step 4")


def test_a_run_that_lost_a_shard_makes_that_one_again(ids, run_program, data, tokenizer, tabletop_dataset):
    files = sorted((ids / "train").glob("frames-*.npy"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    files[1].unlink()
    run_program("encode_frames", ids, encoder=str(tokenizer), **data)
    for path, (content, time) in before.items():
        assert path.read_bytes() == content and (path.stat().st_mtime_ns == time) == (path != files[1])


def test_ids_hang_on_how_frames_are_resized(run_program, data, tokenizer, tabletop_dataset, tmp_path):
    pytest.importorskip("cv2")
    changes = {"resize": "official", "data.image_size": 48, "splits": ("val",)}
    run_program("encode_frames", tmp_path, encoder=str(tokenizer), **data, **changes)
    video = rlds.open_episodes(tabletop_dataset, "val")
    found = encoded.open_encoded(tmp_path / "val", video)
    frames = np.stack([official_images.squared(video.frame(1, t), 48) for t in range(video.lengths[1])])
    stored = np.stack([found.frame(1, t) for t in range(video.lengths[1])])
    np.testing.assert_array_equal(stored, on_the_fly(tokenizer, frames))
    antialiased = np.stack([video.frame(1, t, 48) for t in range(video.lengths[1])])
    assert not np.array_equal(stored, on_the_fly(tokenizer, antialiased))
    assert not (tmp_path / "train").exists()


CASES = [
    (TOWER, {}, 24, (36, 24), np.float16, 2e-3),
    (TOWER, {"dtype": "bfloat16", "pool": 3, "data.image_size": 36}, 36, (9, 24), "bfloat16", 2e-2),
    (IMAGEBIND, {"dtype": "float32", "pool": 2}, 24, (9, 32), np.float32, 1e-4),
]


@pytest.mark.parametrize("path, changes, size, shape, dtype, atol", CASES, ids=["all", "pooled", "imagebind"])
def test_features_of_towers(path, changes, size, shape, dtype, atol, run_program, data, tabletop_dataset, tmp_path):
    run_program("encode_frames", tmp_path, encoder=path, splits=("labelled",), **data, **changes)
    video = rlds.open_episodes(tabletop_dataset, "labelled", view="robot")
    found = encoded.open_encoded(tmp_path / "labelled", video)
    assert (found.shape, found.dtype, found.num_codes) == (shape, np.dtype(dtype), None)
    spec, params = towers.load_tower(path)
    frames = np.stack([video.frame(2, t, size) for t in range(4)])
    seen = jax.jit(vision.VisionTower(**spec).apply)({"params": params}, (frames / 255).astype(np.float32))
    pool = changes.get("pool", 1)
    wanted = einops.reduce(np.asarray(seen), "b (h p) (w q) d -> b (h w) d", "mean", p=pool, q=pool)
    stored = np.stack([found.frame(2, t) for t in range(4)]).astype(np.float32)
    np.testing.assert_allclose(stored, wanted, rtol=atol, atol=atol)
    assert found.provenance["kind"] == "tower" and found.provenance["spec"]["width"] == shape[1]


def test_towers_compute_in_their_own_dtype(run_program, data, tmp_path):
    features = []
    for dtype in ("float32", "bfloat16"):
        changes = {"tower.dtype": dtype, "dtype": "float32", "splits": ("val",)}
        run_program("encode_frames", tmp_path / dtype, encoder=TOWER, **data, **changes)
        features.append(np.load(tmp_path / dtype / "val" / "frames-00000-of-00003.npy")["float32"])
    assert 1e-4 < np.abs(features[0] - features[1]).mean() < 0.05


MISTAKES = [
    ({}, "which encoder.*--config.encoder"),
    ({"encoder": "{nowhere}"}, "no encoder at .*nowhere: give the folder of a train_tokenizer run, or a tower"),
    ({"encoder": "{dataset}"}, "no .*config.json: not a folder of Hugging Face"),
    ({"encoder": TOWER, "data.image_size": 30}, "image_size=30 .*multiple of 4"),
    ({"encoder": TOWER, "pool": 4}, "pool=4 does not divide a grid of 6x6"),
    ({"encoder": TOWER, "pool": 0}, "pool=0"),
    ({"encoder": TOWER, "dtype": "float64"}, "dtype 'float64' of stored features"),
    ({"encoder": TOWER, "tower.dtype": "half"}, "dtype='half'"),
    ({"encoder": TOWER, "resize": "nearest"}, "resize 'nearest'"),
    ({"encoder": TOWER, "splits": ("train", "vla")}, "no split 'vla'"),
    ({"encoder": TOWER, "data.directory": "{nowhere}"}, "no dataset at .*nowhere"),
    ({"encoder": "{tokenizer}", "pool": 2}, "pool=2 averages features, and .* gives ids"),
    ({"encoder": "{tokenizer}", "data.image_size": 31}, "image_size=31 .*multiple of 4"),
]


@pytest.mark.parametrize("changes, message", MISTAKES, ids=[message[:24] for _, message in MISTAKES])
def test_mistakes_are_named_and_claim_no_folder(changes, message, run_program, data, tokenizer, tmp_path):
    places = {"dataset": data["data.directory"], "nowhere": tmp_path / "nowhere", "tokenizer": tokenizer}
    changes = {k: v.format(**places) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(errors.UserError, match=message) as caught:
        run_program("encode_frames", tmp_path / "run", **data | changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_another_config_is_refused(ids, run_program, data):
    with pytest.raises(errors.UserError, match="another config .*encoder: .* there, .*siglip now"):
        run_program("encode_frames", ids, encoder=TOWER, **data)
