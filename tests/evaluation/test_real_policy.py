"""A trained network in closed loop and behind a server: minutes, so with `make test-slow`."""

import json
import sys
import types

import numpy as np
import pytest

from lapa_jax import policy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(run_program, tiny_run, tabletop_dataset, tmp_path_factory):
    """A tiny finetune run."""
    folder = tmp_path_factory.mktemp("runs") / "finetune"
    run_program("finetune", folder, vlm=str(tiny_run("pretrain_vlm")), **{"data.directory": str(tabletop_dataset)})
    return folder


def lines(path):
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in one.items() if key not in ("seconds", "film")} for one in found]


def test_processes_and_interruptions_change_no_bit(run_program, programs, folder, tmp_path, monkeypatch):
    pytest.importorskip("pybullet", reason="PyBullet is not installed (extra [tabletop])")
    given = {"policies.lapa": str(folder), "bounds": (), "episodes": 8, "batch_size": 8}
    run_program("evaluate", tmp_path / "here", **given)
    original = programs["evaluate"].roll_out

    def interrupted(*arguments):
        for number, episode in enumerate(original(*arguments)):
            yield episode
            if number == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(programs["evaluate"], "roll_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_program("evaluate", tmp_path / "there", **given, num_processes=2)
    monkeypatch.undo()
    run_program("evaluate", tmp_path / "there", **given, num_processes=2)
    here, there = (lines(tmp_path / place / "lapa.jsonl") for place in ("here", "there"))
    assert len(here) == 9 and here[0] == there[0]
    key = json.dumps
    assert sorted(here[1:], key=key) == sorted(there[1:], key=key)


def test_a_row_is_answered_alike_whatever_is_beside_it(folder):
    driver, rng = policy.Policy.from_checkpoint(folder), np.random.default_rng(0)
    images, words = rng.integers(0, 256, (8, 64, 64, 3), np.uint8), ["push the red block left", "push it"] * 4
    before = driver.infer({"image": images, "instruction": words})["actions"]
    order = rng.permutation(8)
    after = driver.infer({"image": images[order], "instruction": [words[i] for i in order]})["actions"]
    np.testing.assert_array_equal(after, before[order])


@pytest.mark.parametrize("fault, failing", [("", set()), ("colours", {"difference"}), ("resized", {"difference"})])
def test_a_server_is_held_against_the_run(fault, failing, folder, programs, load_config, tmp_path, monkeypatch):
    """The run has hardly learnt anything, so what it is worth beside the mean is not asked."""
    driver = policy.Policy.from_checkpoint(folder)
    wrong = {
        "": lambda image: image,
        "colours": lambda image: np.ascontiguousarray(image[..., ::-1]),
        "resized": lambda image: image[::2, ::2].repeat(2, 0).repeat(2, 1),
    }[fault]

    class Client:
        metadata = driver.metadata

        def __init__(self, uri, token=None):
            pass

        def infer(self, observation):
            return driver.infer({**observation, "image": wrong(observation["image"])})

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, "lapa_client", types.SimpleNamespace(Client=Client, ServerError=OSError))
    given = {"policy": str(folder), "server": "ws://here:1", "thresholds.mean_ratio": 1e9, "steps": 30}
    program = programs["check_served"]
    program.CONFIG.value, program.WORKDIR.value = load_config("check_served", **given), str(tmp_path)
    status = program.main([])
    found = json.loads((tmp_path / "served.json").read_text())
    assert {one["name"] for one in found["lines"] if not one["passed"]} == failing and status == bool(failing)
    assert "train_mse" in found and found["lines"][0]["name"] == "checkpoint"
