"""The builder writes standard RLDS, keeps successes only, and never leaves half a dataset."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import build
import demonstrations
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lapa_jax import errors
from lapa_jax.data import rlds


def test_splits_counts_and_features(tabletop_dataset):
    info = tfds.builder_from_directory(str(tabletop_dataset / "tabletop" / "1.0.0")).info
    counts = {name: split.num_examples for name, split in info.splits.items()}
    assert counts == {"train": 3, "val": 2, "labelled": 3}
    assert info.file_format.value == "array_record"
    assert set(info.features["episode_metadata"]) == {"family", "seed", "success"}
    assert sum(info.metadata["dropped"].values()) > 0


def test_tensorflow_is_not_needed(tmp_path):
    script = (
        "import build, demonstrations\n"
        "recipe = demonstrations.Recipe(1, 1, 1, environment='fake_tabletop')\n"
        f"build.build({str(tmp_path)!r}, recipe, num_workers=0)\n"
        "from lapa_jax.data import rlds\n"
        f"assert rlds.open_episodes({str(tmp_path)!r}, 'train').num_frames > 8\n"
        "import sys; assert 'tensorflow' not in sys.modules\n"
    )
    path = {"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=path)


def test_steps_follow_the_rlds_convention(tabletop_dataset):
    builder = tfds.builder_from_directory(str(tabletop_dataset / "tabletop" / "1.0.0"))
    for episode in builder.as_data_source("labelled"):
        steps = list(episode["steps"])
        assert [bool(s["is_first"]) for s in steps] == [True] + [False] * (len(steps) - 1)
        assert [bool(s["is_last"]) for s in steps] == [False] * (len(steps) - 1) + [True]
        assert steps[-1]["is_terminal"] and steps[-1]["reward"] == 1 and steps[-1]["discount"] == 0
        assert bool(episode["episode_metadata"]["success"])
        # The fake environment adds the action to the position: the rows are aligned in time.
        positions = np.stack([s["observation"]["effector_translation"] for s in steps])
        actions = np.stack([s["action"] for s in steps])
        np.testing.assert_allclose(np.diff(positions, axis=0), actions[:-1], atol=1e-6)


def test_seeds_of_splits_never_meet(tabletop_recipe):
    other = dataclasses.replace(tabletop_recipe, seed=1)
    seeds = [
        recipe.episode_seed(split, attempt)
        for recipe in (tabletop_recipe, other)
        for split in ("train", "val", "labelled")
        for attempt in (0, 1, 2**24 - 1)
    ]
    assert len(set(seeds)) == len(seeds)


def test_episodes_do_not_depend_on_the_number_of_workers(tabletop_recipe):
    alone, pooled = (
        list(demonstrations.demonstrations(tabletop_recipe, "train", workers, lambda _: None))
        for workers in (0, 2)
    )
    assert [e["seed"] for e in alone] == [e["seed"] for e in pooled]
    assert all(a["images"] == b["images"] for a, b in zip(alone, pooled, strict=True))


def test_failed_episodes_are_dropped_and_counted(tabletop_recipe):
    outcomes = []
    episodes = list(demonstrations.demonstrations(tabletop_recipe, "train", 0, outcomes.append))
    assert all(e["success"] for e in episodes)
    assert outcomes.count(True) == 3 and outcomes.count(False) >= 1


def test_same_recipe_is_not_built_again(tabletop_dataset, tabletop_recipe, monkeypatch):
    monkeypatch.setattr(demonstrations, "simulate", None)
    folder = build.build(tabletop_dataset, tabletop_recipe, num_workers=0)
    assert folder == tabletop_dataset.resolve() / "tabletop" / "1.0.0"


def test_another_recipe_is_refused_and_nothing_changes(tabletop_dataset, tabletop_recipe):
    before = {p: p.stat().st_mtime_ns for p in tabletop_dataset.rglob("*")}
    with pytest.raises(errors.UserError, match="train_episodes=3, not 4"):
        build.build(tabletop_dataset, dataclasses.replace(tabletop_recipe, train_episodes=4))
    assert {p: p.stat().st_mtime_ns for p in tabletop_dataset.rglob("*")} == before


@pytest.mark.parametrize("died_in", ["train", "labelled"])
def test_killed_build_leaves_no_dataset_and_can_be_repeated(
    tmp_path, tabletop_recipe, monkeypatch, died_in
):
    real = demonstrations.demonstrations

    def dying(recipe, split, *args):
        for i, episode in enumerate(real(recipe, split, *args)):
            if split == died_in and i == 1:
                raise KeyboardInterrupt
            yield episode

    with monkeypatch.context() as patch:
        patch.setattr(demonstrations, "demonstrations", dying)
        with pytest.raises(KeyboardInterrupt):
            build.build(tmp_path, tabletop_recipe, num_workers=0)
    with pytest.raises(errors.UserError, match="no dataset"):
        rlds.open_episodes(tmp_path, "train")
    build.build(tmp_path, tabletop_recipe, num_workers=0)
    assert len(rlds.open_episodes(tmp_path, "train")) == 3


def test_hopeless_expert_is_a_user_error(tmp_path, tabletop_recipe):
    recipe = dataclasses.replace(tabletop_recipe, expert_noise=2.0)
    with pytest.raises(errors.UserError, match="lower expert_noise"):
        build.build(tmp_path, recipe, num_workers=0)


def test_folder_that_is_no_dataset_is_not_overwritten(tmp_path, tabletop_recipe):
    precious = tmp_path / "tabletop" / "1.0.0" / "notes.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    with pytest.raises(errors.UserError, match="choose another --out"):
        build.build(tmp_path, tabletop_recipe, num_workers=0)
    assert precious.read_text() == "mine"


def test_command_line_prints_one_line_for_a_user_error(tmp_path):
    script = Path(build.__file__)
    done = subprocess.run(
        [sys.executable, str(script), f"--out={tmp_path}", "--val_episodes=0"],
        capture_output=True, text=True,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines[-1].startswith("error: val_episodes") and "Traceback" not in done.stderr
