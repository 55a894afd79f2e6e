"""Episodes of both views and both file formats, and every refusal."""

import dataclasses
import gc
import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lapa_jax import errors
from lapa_jax.data import gaps, latent_rows, latents, layouts, loader, prompts, rlds, transforms
from lapa_jax.data.stored import index


class Bare(tfds.core.GeneratorBasedBuilder):
    """One episode a split, with the step features that a test asks for."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, steps, rows, **kwargs):
        self._steps, self._rows = steps, rows
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(self._steps)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in ("train", "val")}

    def _generate_examples(self):
        yield 0, {"steps": self._rows}


def write(folder, steps, rows):
    tfds.disable_progress_bar()
    Bare(steps=steps, rows=rows, data_dir=str(folder)).download_and_prepare(download_dir=str(folder / "downloads"))


def scribble_actions(source, target):
    """Copies a dataset with NaN for each action and other numbers for the rest."""
    builder = tfds.builder_from_directory(str(rlds.find_dataset(source)))
    decoders = {"steps": {"observation": {"image": tfds.decode.SkipDecoding()}}}
    episodes = builder.as_data_source("train", decoders=decoders)
    steps = builder.info.features["steps"].feature
    rows = [list(episode["steps"]) for episode in episodes]
    for row in rows:
        for step in row:
            step["action"] = np.full(2, np.nan, np.float32)
            step["observation"]["effector_translation"] = np.full(2, 7, np.float32)
            step["reward"] = np.float32(np.nan)
            step["language_instruction"] = step["language_instruction"].decode()

    class Scribbled(Bare):
        def _generate_examples(self):
            yield from enumerate({"steps": row} for row in rows)

    tfds.disable_progress_bar()
    Scribbled(steps=steps, rows=None, data_dir=str(target)).download_and_prepare(
        download_dir=str(target / "downloads")
    )


def reachable(root):
    """Everything that can be reached from `root` without going through modules and types."""
    seen, todo = {}, [root]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, type) or type(value).__name__ == "module":
            continue
        seen[id(value)] = value
        todo += [] if callable(value) else gc.get_referents(value)
    return list(seen.values())


def test_robot_view_has_aligned_arrays(robot_episodes):
    assert len(robot_episodes) == 3
    assert {"action", "proprio", "reward", "effector", "effector_translation"} < set(robot_episodes.arrays)
    for e, length in enumerate(robot_episodes.lengths):
        assert robot_episodes["action"][e].shape == (length, 2)
        assert robot_episodes["action"][e].dtype == np.float32
        moved = np.diff(robot_episodes["effector"][e], axis=0)
        np.testing.assert_allclose(moved, robot_episodes["action"][e][:-1], atol=1e-6)
    assert robot_episodes.num_frames == robot_episodes.lengths.sum()


def test_frames_are_the_stored_pixels(video_episodes, tabletop_dataset):
    builder = tfds.builder_from_directory(str(rlds.find_dataset(tabletop_dataset)))
    for e, episode in enumerate(builder.as_data_source("train")):
        for t, step in enumerate(episode["steps"]):
            np.testing.assert_array_equal(video_episodes.frame(e, t), step["observation"]["image"])
        assert video_episodes.instruction(e) == step["language_instruction"].decode()
    assert video_episodes.image_shape == (64, 64, 3)


def test_decoded_frames_are_the_same(video_episodes):
    decoded = video_episodes.decoded(32)
    assert decoded.frame(1, 2).shape == (32, 32, 3)
    np.testing.assert_array_equal(decoded.frame(1, 2), video_episodes.frame(1, 2, image_size=32))
    assert decoded.fingerprint == video_episodes.fingerprint
    with pytest.raises(ValueError):
        decoded.frame(0, 0)[0] = 0


def test_video_view_does_not_depend_on_actions(tabletop_dataset, video_episodes, tmp_path):
    scribble_actions(tabletop_dataset, tmp_path)
    scribbled = rlds.open_episodes(tmp_path, "train", rate=10)
    assert np.isnan(rlds.open_episodes(tmp_path, "train", view="robot")["action"][0]).all()
    assert scribbled.fingerprint == video_episodes.fingerprint
    streams = [loader.frame_pairs(e, gaps.Gap(0.4), 4, seed=3) for e in (video_episodes, scribbled)]
    for _ in range(20):
        clean, other = (next(stream) for stream in streams)
        assert {k: v.tobytes() for k, v in clean.items()} == {k: v.tobytes() for k, v in other.items()}


def test_video_view_holds_no_actions(video_episodes, robot_episodes):
    assert not video_episodes.arrays
    with pytest.raises(errors.UserError, match="video view has no 'action'"):
        video_episodes["action"]
    video_episodes.frame(0, 0)
    robot_episodes["action"][0]
    held = [v for v in reachable(video_episodes) if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    assert not held
    assert any(
        isinstance(v, np.ndarray) and v.dtype.kind == "f" for v in reachable(robot_episodes)
    )  # it would be found
    stream = loader.frame_pairs(video_episodes, gaps.Gap(0.4), 2)
    assert set(next(stream)) == {"frame", "next_frame"}


def test_video_view_opens_images_and_text_only(tabletop_dataset, monkeypatch):
    mapped = []
    real = index.Index.mapped

    def spy(self, name):
        mapped.append(name)
        return real(self, name)

    monkeypatch.setattr(index.Index, "mapped", spy)
    episodes = rlds.open_episodes(tabletop_dataset, "train")
    next(loader.frame_pairs(episodes, gaps.Gap(0.4), 2, num_threads=0))
    assert set(mapped) == {"", "observation/image"}


def test_fingerprint_tells_views_splits_and_contents_apart(tabletop_dataset, video_episodes):
    robot = rlds.open_episodes(tabletop_dataset, "train", view="robot")
    val = rlds.open_episodes(tabletop_dataset, "val")
    again = rlds.open_episodes(tabletop_dataset, "train")
    assert len({video_episodes.fingerprint, robot.fingerprint, val.fingerprint}) == 3
    assert again.fingerprint == video_episodes.fingerprint


def test_missing_dataset_says_how_to_build_one(tmp_path):
    with pytest.raises(errors.UserError, match="data/simulated/build.py"):
        rlds.open_episodes(tmp_path / "nothing", "train")


def test_unknown_split_view_and_image_are_named(tabletop_dataset):
    with pytest.raises(errors.UserError, match="'test'.*labelled, train, val"):
        rlds.open_episodes(tabletop_dataset, "test")
    with pytest.raises(errors.UserError, match="'both'"):
        rlds.open_episodes(tabletop_dataset, "train", view="both")
    with pytest.raises(errors.UserError, match="'wrist'.*image"):
        rlds.open_episodes(tabletop_dataset, "train", image_key="wrist")


def test_two_datasets_below_a_folder_are_listed(tabletop_dataset, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(rlds.find_dataset(tabletop_dataset), tmp_path / name)
    with pytest.raises(errors.UserError, match="2 datasets"):
        rlds.open_episodes(tmp_path, "train")
    assert len(rlds.open_episodes(tmp_path / "b", "train")) == 3


def test_empty_split_is_named(tabletop_dataset, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(rlds.find_dataset(tabletop_dataset), target)
    info = json.loads((target / "dataset_info.json").read_text())
    for split in info["splits"]:
        if split["name"] == "val":
            split["shardLengths"] = ["0"]
    (target / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(errors.UserError, match="'val'.*empty"):
        rlds.open_episodes(target, "val")


def test_missing_instruction_and_image_are_named(tmp_path):
    png = transforms.encode_png(np.zeros((8, 8, 3), np.uint8))
    image = {"image": tfds.features.Image(shape=(8, 8, 3))}
    write(tmp_path / "silent", {"observation": image}, [{"observation": {"image": png}}])
    silent = rlds.open_episodes(tmp_path / "silent", "train")
    assert silent.instructions == ("",)
    layout = layouts.Clean(prompts.train_tokenizer(["push"], 4), num_image_tokens=2, code_length=1)
    rows = latent_rows.Rows.of(layout, ["push"])
    with pytest.raises(errors.UserError, match="bare has no instruction in any episode"):
        loader.latent_stream(silent, latents.Latents(latents.Provenance({}, "", 1, 0.1, 1, 8), ()), rows, 1)
    with pytest.raises(errors.UserError, match="bare: how many steps a second is not known; give data.rate"):
        loader.frame_pairs(silent, gaps.Gap(0.4), 1)
    blind = {"language_instruction": tfds.features.Text(), "observation": {"state": np.float32}}
    rows = [{"language_instruction": "push", "observation": {"state": np.float32(0)}}]
    write(tmp_path / "blind", blind, rows)
    with pytest.raises(errors.UserError, match="no image feature.*state"):
        rlds.open_episodes(tmp_path / "blind", "train")


def test_episodes_cannot_be_changed(video_episodes):
    with pytest.raises(dataclasses.FrozenInstanceError):
        video_episodes.lengths = ()


def test_a_split_that_is_not_stored_is_held_out_of_train(tabletop_dataset, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(rlds.find_dataset(tabletop_dataset), target)
    info = json.loads((target / "dataset_info.json").read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
    (target / "dataset_info.json").write_text(json.dumps(info))
    train, val = (rlds.open_episodes(target, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (2, 1) and train.fingerprint != val.fingerprint
    assert sorted([*train.stored.tolist(), *val.stored.tolist()]) == [0, 1, 2]
    whole = rlds.open_episodes(tabletop_dataset, "train")
    np.testing.assert_array_equal(val.frame(0, 3), whole.frame(int(val.stored[0]), 3))
    assert val.instructions[0] == whole.instructions[int(val.stored[0])]
    for split in info["splits"]:
        split["name"] = "test"
    # Its own "validation" or "test" serves before anything is held out.
    info["splits"].append({**info["splits"][0], "name": "train"})
    dataset = rlds.open_dataset(tabletop_dataset)
    assert rlds.split_of(dataset, "val") == ("val", None) and rlds.split_of(dataset, "train") == ("train", None)
    (target / "dataset_info.json").write_text(json.dumps(info))
    assert rlds.split_of(rlds.open_dataset(target), "val") == ("test", None)


def test_standard_and_own_names_are_the_same_camera(video_episodes):
    frame = video_episodes.frame(1, 2)
    for name in ("image_primary", "image", "observation/image"):
        np.testing.assert_array_equal(video_episodes.frame(1, 2, camera=name), frame)
    with pytest.raises(errors.UserError, match="no camera 'image_wrist'; it has image_primary"):
        video_episodes.frame(0, 0, camera="image_wrist")


def test_a_dataset_of_another_shape_than_the_table_says_is_refused(tabletop_dataset):
    with pytest.raises(errors.UserError, match="bridge_dataset: no observation/image_0"):
        rlds.open_episodes(tabletop_dataset, "train", name="bridge_dataset")
    with pytest.raises(errors.UserError, match="no dataset 'nowhere' in the table"):
        rlds.open_episodes(tabletop_dataset, "train", name="nowhere")


def test_decoding_more_than_memory_holds_is_refused(video_episodes, monkeypatch):
    monkeypatch.setattr("lapa_jax.data.episodes._memory", lambda: 1000)
    with pytest.raises(errors.UserError, match="decoded frames are .* set data.decode_once=False"):
        video_episodes.decoded(64)
