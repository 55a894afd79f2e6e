"""Training images through a server: faults that raise nothing are found, and a good server passes."""

import dataclasses
import json
import sys
import types

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import rlds, statistics, transforms
from lapa_jax.evaluation import deployed
from lapa_jax.evaluation.closed_loop import observations

THRESHOLDS = {"difference": 1e-3, "error_ratio": 1.5, "mean_ratio": 0.8}
METADATA = {"cameras": ["image"], "proprio_dim": None, "checkpoint": "abc", "history": 0}


def shrunk(image):
    return transforms.resize(image, 12)


class Policy:
    """Actions float32[3, 2] in metres that hang on each colour and on where it is. Faults are replaced parts."""

    horizon, metadata = 3, METADATA

    def __init__(self, see=lambda image: image, resize=shrunk, unnormalise=lambda actions: actions):
        self._see, self._resize, self._unnormalise = see, resize, unnormalise
        self._weights = np.random.default_rng(0).normal(size=(12 * 12 * 3, 6))

    def infer(self, observation):
        image = self._resize(self._see(observation["image"]))
        features = image.reshape(-1).astype(np.float64) / 255 - 0.5
        actions = 0.002 * (features @ self._weights).reshape(3, 2)
        return {"actions": self._unnormalise(actions).astype(np.float32)}


@pytest.fixture(scope="module")
def chosen():
    """Steps at which the recorded actions are nearly those of the policy."""
    rng, policy, made = np.random.default_rng(1), Policy(), []
    for number in range(60):
        image = np.kron(rng.integers(0, 256, (6, 6, 3)), np.ones((3, 3, 1))).astype(np.uint8)
        image = np.clip(image.astype(int) + rng.integers(-40, 40, image.shape), 0, 255).astype(np.uint8)
        observation = {"image": image, "instruction": f"go {number}"}
        actions = policy.infer(observation)["actions"] + rng.normal(0, 0.0005, (3, 2))
        made.append(deployed.Sample(observation, actions.astype(np.float32), np.arange(3) < 1 + number % 3))
    return made


@pytest.fixture(scope="module")
def stats(chosen):
    return statistics.compute([one.actions for one in chosen], "quantile")


def judge(server, chosen, stats, local=None, same=True):
    found = deployed.compare(server.infer, (local or Policy()).infer, chosen, stats, THRESHOLDS["difference"])
    reference = 0.0005**2 / np.square(stats.width).mean()
    lines = deployed.lines(found, reference, same, THRESHOLDS)
    return {line.name for line in lines if not line.passed}, found, lines


def test_a_good_server_passes(chosen, stats):
    failing, found, _ = judge(Policy(), chosen, stats)
    assert not failing and found.difference == 0 and found.mistake == ""
    assert found.error == found.local_error < 0.1 * found.mean_error


FAULTS = {
    "colours": ({"see": lambda image: image[..., ::-1]}, {"difference", "error_ratio", "mean_ratio"}),
    "upside down": ({"see": lambda image: image[::-1]}, {"difference", "error_ratio", "mean_ratio"}),
    "scale": ({"unnormalise": lambda actions: actions * 1.5}, {"difference", "error_ratio"}),
    "offset": ({"unnormalise": lambda actions: actions + 0.02}, {"difference", "error_ratio"}),
    "not undone": ({"unnormalise": lambda actions: actions / 0.01}, {"difference", "error_ratio", "mean_ratio"}),
    "nearest": ({"resize": lambda image: image[:, ::3][::3].repeat(2, 0).repeat(2, 1)}, {"difference"}),
    "cropped": ({"resize": lambda image: image[3:15, 3:15]}, {"difference", "error_ratio"}),
    "blind": ({"see": np.zeros_like}, {"difference", "error_ratio", "mean_ratio"}),
    "nan": ({"unnormalise": lambda actions: actions * np.nan}, {"difference", "error_ratio", "mean_ratio"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_raise_nothing_are_found(fault, chosen, stats):
    changes, failing = FAULTS[fault]
    assert failing <= judge(Policy(**changes), chosen, stats)[0]


def test_a_fault_on_both_sides_is_found_by_the_error(chosen, stats):
    """As when the training and not the server has it otherwise."""
    wrong = Policy(see=lambda image: image[..., ::-1])
    assert judge(wrong, chosen, stats, local=wrong)[0] == {"error_ratio", "mean_ratio"}


@pytest.mark.parametrize("mistake, change", deployed.MISTAKES.items())
def test_common_mistakes_are_named(mistake, change, chosen, stats):
    _, found, lines = judge(Policy(see=change), chosen, stats)
    assert found.mistake == mistake
    assert any(mistake in str(line) for line in lines if line.name == "difference")


def test_another_checkpoint_is_named(chosen, stats):
    assert judge(Policy(), chosen, stats, same=False)[0] == {"checkpoint"}
    assert "checkpoint" not in {line.name for line in judge(Policy(), chosen, stats, same=None)[2]}


def test_samples_are_what_a_robot_would_send(tabletop_dataset):
    episodes = rlds.open_episodes(tabletop_dataset, "labelled", "robot")
    wanted = observations.Wanted(("image", "image_primary"), 2)
    found = deployed.samples(episodes, wanted, 4, 10, seed=3)
    again = deployed.samples(episodes, wanted, 4, 10, seed=3)
    other = deployed.samples(episodes, wanted, 4, 10, seed=4)
    assert len(found) == 10 and len(deployed.samples(episodes, wanted, 4, 10**6, seed=0)) == episodes.num_frames
    for one, same in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.actions, same.actions)
    assert any((a.actions != b.actions).any() for a, b in zip(found, other, strict=True))
    for one in found:
        rows = [row for e in range(len(episodes)) for row in range(int(episodes.lengths[e])) if (
            np.array_equal(episodes["action"][e][row], one.actions[0])
            and np.array_equal(episodes.frame(e, row), one.observation["image"])
            and np.array_equal(episodes["proprio"][e][row], one.observation["proprio"])
            and one.mask.sum() == min(4, episodes.lengths[e] - row)
        )]  # fmt: skip
        assert len(rows) == 1 and (one.observation["image"] == one.observation["image_primary"]).all()
    with pytest.raises(errors.UserError, match="no camera 'image_wrist'"):
        deployed.samples(episodes, observations.Wanted(("image", "image_wrist")), 4, 1, 0)


class Refused(RuntimeError):
    pass


@pytest.fixture
def check(programs, load_config, tabletop_dataset, tmp_path, monkeypatch):
    """(served, **changes) -> (status, served.json) of the program on a stand-in for a run and a client."""
    program, folder = programs["check_served"], tmp_path / "finetune"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"val_mse": 1.0}))
    data = load_config("finetune", **{"data.directory": str(tabletop_dataset)}).data.to_dict()
    monkeypatch.setattr(program.checkpoints, "load_json", lambda path, name: {"data": data})
    monkeypatch.setattr(program.policies, "Policy", types.SimpleNamespace(from_checkpoint=lambda where: Policy()))

    def run(served, **changes):
        class Client:
            metadata = served.metadata

            def __init__(self, uri, token=None):
                assert uri == "ws://here:1"

            infer = staticmethod(served.infer)
            close = staticmethod(lambda: None)

        monkeypatch.setitem(sys.modules, "lapa_client", types.SimpleNamespace(Client=Client, ServerError=Refused))
        given = {"policy": str(folder), "server": "ws://here:1"}
        given |= {"thresholds.train_ratio": 1e9, "thresholds.held_out_ratio": 1e9} | changes
        program.CONFIG.value = load_config("check_served", **given)
        program.WORKDIR.value = str(tmp_path / "served")
        return program.main([]), json.loads((tmp_path / "served" / "served.json").read_text())

    return run


def test_the_program_tells_a_good_server_from_a_bad_one(check, capsys):
    status, found = check(Policy(), **{"thresholds.mean_ratio": 1e9})
    assert status == 0 and found["passed"] and found["difference"] == 0 and found["steps"] == 8
    assert found["val_mse"] == 1.0 and capsys.readouterr().out.endswith("\nPASS\n")
    status, found = check(Policy(see=lambda image: image[..., ::-1]), **{"thresholds.mean_ratio": 1e9})
    assert status == 1 and found["mistake"] == "red and blue change places"
    assert "in the server red and blue change places" in capsys.readouterr().out
    # The images of this dataset are noise: no policy beats the mean.
    status, found = check(Policy())
    assert status == 1 and [one["name"] for one in found["lines"] if not one["passed"]] == ["mean_ratio"]


def test_another_checkpoint_fails(check):
    other = Policy()
    other.metadata = METADATA | {"checkpoint": "def"}
    status, found = check(other, **{"thresholds.mean_ratio": 1e9})
    assert status == 1 and found["lines"][0]["name"] == "checkpoint" and not found["lines"][0]["passed"]


def test_the_error_of_the_training_comes_first(check, tmp_path):
    (tmp_path / "finetune" / "summary.json").write_text(json.dumps({"val_mse": 1.0, "train_mse": 0.5}))
    assert check(Policy())[1]["train_mse"] == 0.5
    changes = {"thresholds.mean_ratio": 1e9, "thresholds.train_ratio": 1e-9}
    assert [one["passed"] for one in check(Policy(), **changes)[1]["lines"]] == [True, True, False, True]
    (tmp_path / "finetune" / "summary.json").unlink()
    with pytest.raises(errors.UserError, match="summary.json tells no error: give the folder of a finished"):
        check(Policy())


def test_nothing_is_checked_without_both(check):
    with pytest.raises(errors.UserError, match="which policy, which server"):
        check(Policy(), server=None)


def test_a_perfect_recording_is_no_division_by_zero(chosen, stats):
    still = [dataclasses.replace(one, actions=one.actions * 0) for one in chosen]
    assert "mean_ratio" in judge(Policy(), still, stats)[0]
