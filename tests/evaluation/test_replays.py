"""A dataset's own actions in its environment, and in environments that are not its own."""

import dataclasses
import inspect
import json

import fake_tabletop
import gymnasium
import numpy as np
import pytest
import tensorflow_datasets as tfds
import test_rlds  # tests/data

from lapa_jax import errors
from lapa_jax.data import rlds, transforms
from lapa_jax.evaluation import recordings, replays, sanity
from lapa_jax.evaluation.closed_loop import worlds

THRESHOLDS = {"began": 1.0, "success": 0.95, "state_drift": 0.05, "image_drift": 0.02}


# An environment without splits is recorded as it is.
RECORDED = "labelled" if "split" in inspect.signature(fake_tabletop.make).parameters else "video"


class Env(fake_tabletop.FakeEnv):
    """The environment of the dataset, with one thing that can be wrong."""

    def __init__(self, fault="", split=RECORDED):
        super().__init__(split, 64)
        self.fault, self.action_space = fault, gymnasium.spaces.Box(-1, 1, (2 + (fault == "dims"),), np.float32)

    def reset(self, seed):
        observation, info = super().reset(seed)
        if self.fault == "family":
            info["family"] = "stroll"
        return observation, info

    def step(self, action):
        action = action * 1.5 if self.fault == "unit" else action
        observation, reward, terminated, truncated, info = super().step(action[:2])
        # A world where the result hangs on the actions: it is won near the place where the recording ends.
        if terminated and self.fault == "unit":
            terminated, truncated, info["success"] = False, True, False
        return observation, reward, terminated, truncated, info

    def _observe(self):
        observation = super()._observe()
        if self.fault == "colours":
            observation["image"] = observation["image"][..., ::-1]
        for name in {"effector", "proprio"} & observation.keys():
            if self.fault == "blind":
                del observation[name]
            if self.fault == "nan":
                observation[name] = observation[name] * np.nan
        return observation

    def close(self):
        pass


@dataclasses.dataclass(frozen=True)
class World(worlds.World):
    name: str = "fake"

    def make(self, *families):
        return Env(**self.kwargs)


@pytest.fixture(scope="module")
def chosen(tabletop_dataset):
    return list(recordings.Recordings.open(tabletop_dataset, "labelled").spread(3))


def lines_of(chosen, **kwargs):
    """What is judged, and the replays."""
    with replays.Stage(World(kwargs=kwargs)) as stage:
        done = [replays.replay(stage, one) for one in chosen]
    return replays.lines(done, replays.scales(chosen), THRESHOLDS), done


def judge(chosen, **kwargs):
    """name -> whether it passed, and the replays."""
    lines, done = lines_of(chosen, **kwargs)
    return {line.name: line.passed for line in lines}, done


def test_recordings_are_what_is_stored(chosen, tabletop_dataset):
    episodes = rlds.open_episodes(tabletop_dataset, "labelled", "robot")
    assert [one.number for one in chosen] == [0, 1, 2] and {one.family for one in chosen} == {"push"}
    assert len({one.seed for one in chosen}) == 3 and all(one.success for one in chosen)
    for one in chosen:
        np.testing.assert_array_equal(one.actions, episodes["action"][one.number])
        np.testing.assert_array_equal(one.image(2), episodes.frame(one.number, 2))
        assert one.instruction == episodes.instruction(one.number) and "effector" in one.states


def test_in_its_own_environment_all_is_as_it_was(chosen):
    passed, done = judge(chosen)
    assert passed == dict.fromkeys(("began", "success", "state_drift", "image_drift"), True)
    assert all(one.steps == one.length and one.image_drift == 0 for one in done)
    assert all(one.drift and all((apart == 0).all() for apart in one.drift.values()) for one in done)


@pytest.mark.parametrize(
    "fault, failing",
    [
        ("unit", {"success", "state_drift"}),
        ("colours", {"image_drift"}),
        ("nan", {"state_drift"}),
        ("family", {"began", "success"}),
    ],
)
def test_what_is_wrong_fails(chosen, fault, failing):
    passed, _ = judge(chosen, fault=fault)
    assert {name for name, good in passed.items() if not good} == failing


def test_the_wrong_split_begins_otherwise(chosen):
    passed, done = judge(chosen, split={"labelled": "video", "video": "labelled"}[RECORDED])
    assert not passed["began"] and not any(one.began and one.image_drift == 0 for one in done)


def test_without_a_state_in_common_images_decide(chosen):
    lines = {line.name: line for line in lines_of(chosen, fault="blind")[0]}
    assert list(lines) == ["began", "success", "state_drift", "image_drift"]
    assert all(line.passed for line in lines.values()) and "no state is in both" in lines["state_drift"].says


def test_actions_of_another_size_are_named(chosen):
    with pytest.raises(errors.UserError, match=r"episode 0, step 0: the action has shape \[2\], .* takes \[3\]"):
        judge(chosen, fault="dims")


def test_a_dataset_that_does_not_say_how_it_began_is_refused(tmp_path):
    steps = {"observation": {"image": tfds.features.Image(shape=(8, 8, 3))}, "action": np.float32}
    row = {"observation": {"image": transforms.encode_png(np.zeros((8, 8, 3), np.uint8))}, "action": 0.0}
    test_rlds.write(tmp_path, steps, [row] * 3)
    with pytest.raises(errors.UserError, match="does not keep the family and the seed of its episodes"):
        recordings.Recordings.open(tmp_path, "train")


def test_numbers_that_hardly_vary_are_not_blown_up(chosen):
    still = [dataclasses.replace(one, states={"s": one.actions * np.array([1, 0])}) for one in chosen]
    scale = replays.scales(still)["s"]
    assert scale[1] == pytest.approx(1e-3 * scale[0])


def test_lines_pass_and_fail_as_they_say(tmp_path, capsys):
    good = sanity.Line("a", "apart 1", 1.0, 1.0, "look there")
    bad = sanity.Line("b", "share 0.5", 0.5, 0.6, "look here", at_most=False)
    none = sanity.Line("c", "nothing", np.nan, 1.0, "look nowhere")
    assert good.passed and not bad.passed and not none.passed
    assert sanity.conclude(tmp_path / "x" / "c.json", [good], {"more": 1})
    assert not sanity.conclude(tmp_path / "c.json", [good, bad, none], {})
    printed = capsys.readouterr().out
    assert "PASS  apart 1 (wanted: at most 1)" in printed and "look there" not in printed
    assert "FAIL  share 0.5 (wanted: at least 0.6)\n      look here" in printed and printed.endswith("\nFAIL\n")
    found = json.loads((tmp_path / "c.json").read_text())
    assert not found["passed"] and [line["passed"] for line in found["lines"]] == [True, False, False]
    assert found["lines"][2]["value"] is None and json.loads((tmp_path / "x" / "c.json").read_text())["more"] == 1


def test_the_program_on_the_real_tabletop(programs, load_config, tmp_path):
    pytest.importorskip("pybullet", reason="PyBullet is not installed (extra [tabletop])")
    import build
    import demonstrations

    recipe = demonstrations.Recipe(train_episodes=1, val_episodes=1, labelled_episodes=2)
    build.build(tmp_path, recipe, num_workers=0)

    def check(**changes):
        program = programs["check_replay"]
        program.CONFIG.value = load_config("check_replay", **{"data.directory": str(tmp_path), **changes})
        program.WORKDIR.value = str(tmp_path / "replay")
        return program.main([]), json.loads((tmp_path / "replay" / "replay.json").read_text())

    status, found = check()
    assert status == 0 and found["passed"] and len(found["episodes"]) == 2
    assert all(one["success"] and one["image_drift"] == 0 for one in found["episodes"])
    assert all(one["drift"] and not any(map(any, one["drift"].values())) for one in found["episodes"])
    status, found = check(env_split="heldout")
    assert status == 1 and not found["passed"]
