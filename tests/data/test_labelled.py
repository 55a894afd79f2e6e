"""Labels written back: the published records with one more feature, for TFDS and for us."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lapa_jax import errors
from lapa_jax.data import labelled, latents, rlds


def label(episodes, gap=4, length=2, checkpoint=None):
    """Codes that name their episode and step."""
    codes = [
        np.array([[e, t] for t in range(max(n - gap, 0))], np.int32).reshape(-1, length)
        for e, n in enumerate(episodes.lengths)
    ]
    checkpoint = checkpoint or {"path": "runs/laq", "step": 600, "config": "0123"}
    provenance = latents.Provenance(checkpoint, episodes.fingerprint, gap, 0.4, length, 1000)
    return latents.Latents(provenance, tuple(codes))


@pytest.fixture
def splits(tabletop_dataset):
    opened = {split: rlds.open_episodes(tabletop_dataset, split) for split in ("train", "val")}
    return {split: (episodes, label(episodes)) for split, episodes in opened.items()}


def test_tfds_reads_what_was_published_and_the_codes(splits, tabletop_dataset, tmp_path):
    folder = labelled.write(tmp_path, splits, episodes_per_shard=2)
    before = tfds.builder_from_directory(str(rlds.find_dataset(tabletop_dataset)))
    after = tfds.builder_from_directory(str(folder))
    for split, (_, labels) in splits.items():
        sources = [builder.as_data_source(split) for builder in (before, after)]
        assert len(sources[0]) == len(sources[1]) == len(labels)
        for e, (old, new) in enumerate(zip(*sources, strict=True)):
            assert old["episode_metadata"] == new["episode_metadata"]
            for t, (left, right) in enumerate(zip(old["steps"], new["steps"], strict=True)):
                codes = right.pop("latent_action")
                wanted = labels.codes(e)[t] if t < len(labels.codes(e)) else [-1, -1]
                np.testing.assert_array_equal(codes, wanted)
                assert codes.dtype == np.int32 and left.keys() == right.keys()
                np.testing.assert_array_equal(left["observation"]["image"], right["observation"]["image"])
                np.testing.assert_array_equal(left["action"], right["action"])


def test_we_read_it_under_the_same_names(splits, tmp_path):
    folder = labelled.write(tmp_path, splits)
    video, labels = splits["train"]
    found = rlds.open_episodes(folder, "train", "robot")
    assert found.name == "tabletop" and found.rate == 10 and found.instructions == video.instructions
    assert rlds.open_episodes(folder, "train").fingerprint == video.fingerprint  # the same video
    np.testing.assert_array_equal(found["latent_action"][1][: len(labels.codes(1))], labels.codes(1))
    about = json.loads((folder / "lapa.json").read_text())
    provenance = about["labels"]["train"]["provenance"]
    assert provenance["checkpoint"] == {"path": "runs/laq", "step": 600, "config": "0123"}
    assert (provenance["gap"], provenance["gap_seconds"], provenance["dataset"]) == (4, 0.4, video.fingerprint)


def test_several_processes_and_a_crash_leave_the_same_folder(splits, tmp_path, monkeypatch):
    def write(root, **shares):
        return labelled.write(root, splits, episodes_per_shard=1, **shares)

    whole = write(tmp_path / "a")
    write(tmp_path / "b", process_index=1, process_count=2)
    assert not (tmp_path / "b/tabletop/1.0.0/lapa.json").exists()
    real, calls = labelled.example.with_ints, []

    def crash(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(labelled.example, "with_ints", crash)
        write(tmp_path / "b", process_index=0, process_count=2)
    parts = write(tmp_path / "b", process_index=0, process_count=2)
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in parts.iterdir())
    assert all((whole / name).read_bytes() == (parts / name).read_bytes() for name in names)


def test_the_published_bridge_sample_keeps_its_bytes(shared, tmp_path):
    video = rlds.open_episodes(shared / "data/bridge_dataset", "train")
    folder = labelled.write(tmp_path, {"train": (video, label(video, gap=3))})
    found = rlds.open_episodes(folder, "train", "robot")
    # The table leaves out a step at each end of an episode; the codes stay with their frames.
    np.testing.assert_array_equal(found["latent_action"][7], [*([7, t] for t in range(5)), *[[-1, -1]] * 3])
    assert found.encoded(7, 2) == video.encoded(7, 2)


def test_labels_that_do_not_belong_are_refused(splits, tmp_path):
    video, labels = splits["train"]
    with pytest.raises(errors.UserError, match="tabletop: the codes are of dataset .* label these episodes"):
        labelled.write(tmp_path, {"train": (splits["val"][0], labels)})
    with pytest.raises(errors.UserError, match="only episodes of RLDS"):
        labelled.write(tmp_path, {"train": (video.decoded(), labels)})
    folder = labelled.write(tmp_path, {"train": (video, labels)})
    with pytest.raises(errors.UserError, match="choose another folder"):
        labelled.write(tmp_path, {"train": (video, label(video, checkpoint={"step": 1}))})
    again = rlds.open_episodes(folder, "train")
    with pytest.raises(errors.UserError, match="there is a feature .* it was labelled before"):
        labelled.write(tmp_path / "twice", {"train": (again, label(again))})
