"""Every form of data by its folder: the same config, another directory."""

import json

import make_lerobot
import make_videos
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import episodes, gaps, loader, rlds, sources
from lapa_jax.data.video import clips


@pytest.fixture(scope="session")
def something(tmp_path_factory):
    """A folder as Something-Something V2 is distributed: webm clips and two label files."""
    root = tmp_path_factory.mktemp("something") / "ssv2"
    (root / "20bn-something-something-v2").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, ids in {"train": range(4), "validation": range(4, 6)}.items():
        rows = []
        for i in ids:
            still = rng.integers(0, 255, (48, 64, 3), np.uint8)
            frames = [np.roll(still, 3 * t, axis=1) for t in range(16)]
            make_videos.write(root / f"20bn-something-something-v2/{i}.webm", frames, 12)
            rows.append(
                {"id": str(i), "label": f"moving {i}", "template": "Moving [something]", "placeholders": [str(i)]}
            )
        (root / f"something-something-v2-{split}.json").write_text(json.dumps(rows))
    return root


@pytest.fixture(scope="session")
def lerobot_dataset(tmp_path_factory):
    toys = make_lerobot.toys((9, 8, 8))
    return make_lerobot.write(tmp_path_factory.mktemp("lerobot") / "toy", "v2.1", toys)


@pytest.fixture(scope="session")
def folders(tabletop_dataset, lerobot_dataset, something):
    """name -> folder of each form that is made here."""
    return {"tabletop": tabletop_dataset, "lerobot": lerobot_dataset, "something": something}


@pytest.fixture
def data(load_config, tmp_path):
    """config.data of train_laq with changes."""

    def make(**changes):
        changes = {f"data.{key}": value for key, value in changes.items()}
        return load_config("train_laq", **{"data.cache": str(tmp_path), "data.clips.size": 64, **changes}).data

    return make


@pytest.mark.parametrize("form", ["tabletop", "lerobot", "something"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_form_has_the_standard_names(form, split, folders, data):
    (found,) = sources.open_mixture(data(directory=str(folders[form])), split, "robot").members
    assert len(found) and found.rate and "image_primary" in found.cameras
    assert found.frame(0, 1, 32).shape == (32, 32, 3)
    assert ("action" in found.arrays) == ("proprio" in found.arrays) == (form != "something")
    if form != "something":
        assert len(found["action"][0]) == found.lengths[0]
    assert all(found.instructions)


def test_the_splits_of_a_lerobot_dataset_are_disjoint_and_whole(lerobot_dataset, data):
    chosen = data(directory=str(lerobot_dataset))
    train, val = (sources.open_mixture(chosen, split).members[0] for split in ("train", "val"))
    assert len(train) + len(val) == 3 and train.num_frames + val.num_frames == 25


def test_videos_are_decoded_once(something, data, monkeypatch):
    first = sources.open_mixture(data(directory=str(something)), "train")
    asked, run = [], clips._run
    monkeypatch.setattr(clips, "_run", lambda task, todo, workers: asked.append(todo) or run(task, todo, 0))
    again = sources.open_mixture(data(directory=str(something)), "train")
    assert again.fingerprint == first.fingerprint
    assert not any(asked)
    smaller = sources.open_mixture(data(directory=str(something), **{"clips.size": 32}), "train")
    assert len(asked[-1]) == 4 and smaller.members[0].image_shape == (32, 32, 3)


def test_decoded_human_video_is_the_video(something, data):
    (found,) = sources.open_mixture(data(directory=str(something), **{"clips.rate": 12.0}), "train").members
    assert (
        found.rate == 12
        and set(found.instructions) <= {f"moving {i}" for i in range(4)}
        and found.num_frames >= 4 * 15
    )
    batch = next(loader.frame_pairs(found, gaps.Gap(0.25), 8))
    # 0.25 s are 3 frames of 3 pixels of 64, whatever the size.
    moved = [np.roll(frame, 9, axis=1) for frame in batch["frame"].astype(int)]
    error = [np.abs(a - b).mean() for a, b in zip(moved, batch["next_frame"], strict=True)]
    still = np.abs(batch["frame"].astype(int) - batch["next_frame"]).mean()
    assert np.median(error) < 0.5 * still


def test_a_mixture_of_all_forms_trains_stage_1(folders, run_program, shared, tmp_path):
    bridge = shared / "data" / "bridge_dataset"
    places = {**folders, "bridge": bridge}
    common = {"data.cache": str(tmp_path / "cache"), "data.clips.size": 64}
    mixture = ",".join(f"{folder}={weight}" for weight, folder in enumerate(places.values(), start=1))
    run_program("train_laq", tmp_path / "all", **common, **{"data.mixture": mixture, "data.balance": False})
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert len(summary["datasets"]) == 4
    assert all(one["held_out_pairs"] and np.isfinite(one["mse"]) for one in summary["datasets"].values())


@pytest.mark.slow
def test_a_mixture_goes_through_stages_1_and_2(folders, run_program, tmp_path):
    mixture = f"{folders['tabletop']}=2,{folders['something']}"
    common = {"data.cache": str(tmp_path / "cache"), "data.clips.size": 64, "data.mixture": mixture}
    run_program("train_laq", tmp_path / "laq", **common)
    run_program("label_latents", tmp_path / "latents", laq=str(tmp_path / "laq"), write_rlds=True)
    made = sorted(path.name for path in (tmp_path / "latents/train").iterdir())
    assert made == ["0-tabletop", "1-something_something_v2"]
    for i, name in enumerate(["tabletop", "something_something_v2"]):
        again = rlds.open_episodes(tmp_path / "latents/rlds" / str(i), "val", "robot", cache=str(tmp_path))
        assert again.name == name and again["latent_action"][0].shape == (again.lengths[0], 1)
    run_program("pretrain_vlm", tmp_path / "vlm", **common, **{"data.latents": str(tmp_path / "latents")})
    summary = json.loads((tmp_path / "vlm" / "summary.json").read_text())
    assert summary["held_out_steps"] > 0 and 0 <= summary["code_accuracy"] <= 1


def test_what_is_missing_of_a_mixture_is_named(folders, data, tmp_path):
    with pytest.raises(errors.UserError, match="1 of the 2 datasets of data.mixture are not there: .*nowhere"):
        sources.open_mixture(data(mixture=f"{folders['tabletop']},{tmp_path / 'nowhere'}=2"), "train")
    with pytest.raises(errors.UserError, match="27 of the 27 datasets.*fractal20220817_data"):
        sources.open_mixture(data(mixture="oxe_magic_soup_plus", directory=str(tmp_path)), "train")


def test_folders_that_hold_nothing_are_named(data, tmp_path):
    with pytest.raises(errors.UserError, match=f"no dataset at {tmp_path}/nowhere"):
        sources.open_mixture(data(directory=str(tmp_path / "nowhere")), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.UserError, match="no videos .* in .*empty"):
        sources.open_mixture(data(directory=str(tmp_path / "empty")), "train")


def test_a_single_dataset_and_a_mixture_of_one_are_the_same_stream(folders, data):
    alone = sources.open_mixture(data(directory=str(folders["tabletop"])), "train")
    mixed = sources.open_mixture(data(mixture=f"{folders['tabletop']}=3"), "train")
    streams = [loader.frame_pairs(found, gaps.Gap(0.4), 4) for found in (alone, mixed)]
    assert streams[0].get_state() == streams[1].get_state()
    assert isinstance(alone, episodes.Mixture)
