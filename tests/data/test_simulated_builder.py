"""The builder writes standard RLDS, keeps successes only, and never leaves half a dataset."""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import build
import demonstrations
import environments
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lapa_jax import envs, errors
from lapa_jax.data import rlds, transforms
from lapa_jax.data.tables import standard


def test_splits_counts_and_features(tabletop_dataset):
    info = tfds.builder_from_directory(str(tabletop_dataset / "tabletop" / "1.0.0")).info
    counts = {name: split.num_examples for name, split in info.splits.items()}
    assert counts == {"train": 3, "val": 2, "labelled": 3}
    assert info.file_format.value == "array_record"
    assert set(info.features["episode_metadata"]) == {"family", "seed", "success"}
    assert sum(info.metadata["dropped"].values()) > 0
    assert info.metadata["declared"]["action_space"]["names"] == ["dx", "dy"] and info.metadata["env_splits"] == {}


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


@pytest.mark.parametrize("environment, args", [("tabletop", "{}"), ("metaworld", '{"families": ["faucet-open"]}')])
def test_a_recorded_episode_can_be_played_again(environment, args):
    package = {"tabletop": "pybullet"}.get(environment, environment)
    if importlib.util.find_spec(package) is None:  # mujoco must not be imported before MUJOCO_GL is set
        pytest.skip(f"{environment} needs `pip install -e .[{environment}]`")
    path = envs.module_path(environment)
    noise = environments.named(path).expert_noise
    recipe = demonstrations.Recipe(
        1, 1, 1, expert_noise=noise, environment=path, name=environment, env_args=args
    )
    episode = demonstrations.simulate(recipe, "labelled", recipe.episode_seed("labelled", 0))
    env = recipe.make("labelled")
    observation, info = env.reset(seed=episode["seed"])
    for t, action in enumerate(episode["actions"]):
        np.testing.assert_array_equal(observation["image"], transforms.decode_image(episode["images"][t]))
        np.testing.assert_array_equal(observation["proprio"], episode["proprio"][t])
        observation, reward, *_, info = env.step(action)
        assert reward == episode["rewards"][t]
    env.close()
    demonstrations._environment(recipe, "labelled")[0].close()
    assert info["success"] == episode["success"] and info["family"] == episode["family"]


@pytest.mark.parametrize("environment", ["lapa_jax.envs.metaworld", "lapa_jax.envs.tabletop"])
def test_what_is_stored_is_what_the_table_reads(environment):
    """Names, widths and rate, without recording: the environments say them of themselves."""
    pytest.importorskip("gymnasium", reason="the environments need gymnasium: the extras [tabletop], [metaworld]")
    if environment.endswith("tabletop"):
        pytest.importorskip("pybullet", reason="the tabletop needs pybullet: the extra [tabletop]")
    said = demonstrations.declared(demonstrations.Recipe(1, 1, 1, environment=environment))
    entry = standard.lookup(environment.rpartition(".")[2])
    assert list(entry.action_dim_names) == said["action_space"]["names"] and entry.rate == said["rate_hz"]
    widths = {f"observation/{name}": len(columns) for name, columns in said["proprio"]["parts"].items()}
    assert [part.key for part in entry.proprio] == list(widths)
    assert entry.widths == {"action": len(entry.action_dim_names), **widths}


def test_an_environment_that_declares_nothing_is_refused(monkeypatch, tabletop_recipe):
    import fake_tabletop

    monkeypatch.delattr(fake_tabletop.FakeEnv, "action_space_description")
    with pytest.raises(errors.UserError, match="declare metadata.*names for its 2 numbers"):
        demonstrations.declared(tabletop_recipe)


def test_arguments_of_the_environment_are_part_of_the_recipe(tabletop_recipe):
    same, other = (
        dataclasses.replace(tabletop_recipe, env_args=args) for args in ('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    )
    assert same == other
    for wrong in ("{", "[]", '{"split": "video"}'):
        with pytest.raises(errors.UserError, match="env_args"):
            dataclasses.replace(tabletop_recipe, env_args=wrong)
    with pytest.raises(errors.UserError, match="cannot be made so: .*unexpected keyword argument"):
        demonstrations.declared(dataclasses.replace(tabletop_recipe, env_args='{"colour": 1}'))


def test_a_dataset_from_before_there_were_arguments_is_the_same(tabletop_dataset, tabletop_recipe, tmp_path):
    """Its recipe says neither a name nor arguments."""
    folder = shutil.copytree(tabletop_dataset / "tabletop", tmp_path / "tabletop") / "1.0.0"
    path = folder / "metadata.json"
    stored = json.loads(path.read_text())
    for key in ("name", "env_args"):
        del stored["recipe"][key]
    path.write_text(json.dumps(stored))
    assert build.build(tmp_path, tabletop_recipe, num_workers=0) == folder.resolve()
