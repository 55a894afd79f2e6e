"""The program around closed-loop evaluation: what it leaves, how it goes on, what it refuses."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import fake_world
import numpy as np
import policies
import pytest
import waiting

from lapa_jax import chunking, errors
from lapa_jax.evaluation import intervals, rollouts
from lapa_jax.evaluation.closed_loop import pools, worlds

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def evaluate(run_program, programs, monkeypatch):
    """(folder, **changes): the program on the fake world; `walker` is the one policy there is."""
    monkeypatch.setattr(programs["evaluate"], "world_of", lambda config: fake_world.World())
    monkeypatch.setattr(policies, "opened", lambda where, source=None: contextlib.nullcontext(fake_world.Walker()))
    monkeypatch.setattr(policies, "origin", lambda where: f"checkpoint of {where}")

    def run(folder, **changes):
        small = {"policies.lapa": "walker", "episodes": 8, "batch_size": 3}
        run_program("evaluate", folder, **small | changes)
        return json.loads((folder / "results.json").read_text())

    return run


def lines(folder, name="lapa"):
    """Episodes of a journal, without their seconds."""
    found = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()][1:]
    return {(one["family"], one["seed"]): {k: v for k, v in one.items() if k != "seconds"} for one in found}


def test_an_evaluation_leaves_all_that_is_promised(evaluate, tmp_path, capsys):
    results = evaluate(tmp_path, **{"others": "second=elsewhere", "num_processes": 2})
    assert list(results["policies"]) == ["lapa", "second", "expert", "random"]
    for name, found in results["policies"].items():
        played = lines(tmp_path, name)
        assert len(played) == found["all"]["trials"] == results["episodes"] == 8
        for family, counts in found["families"].items():
            mine = [one for (of, _), one in played.items() if of == family]
            won = [one["length"] for one in mine if one["success"]]
            assert counts["successes"] == len(won) and counts["trials"] == len(mine) == 4
            assert counts["interval"] == list(intervals.wilson(len(won), len(mine)))
            assert counts["length"] == (sum(won) / len(won) if won else None)
        films = [one["film"] for one in played.values() if one["film"]]
        assert {path.name for path in (tmp_path / "videos" / name).iterdir()} == set(films) and films
    assert results["gifs"]["success"]["policy"] == "lapa" and (tmp_path / "success.gif").exists()
    assert results["policies"]["lapa"]["all"]["successes"] == 8
    printed = capsys.readouterr().out
    assert re.search(r"\[evaluate\] lapa left: 4/4 in \d\.\d steps, after", printed)
    assert "100 % [68, 100]" in printed


def test_an_interrupted_evaluation_goes_on(evaluate, programs, tmp_path, monkeypatch):
    whole = evaluate(tmp_path / "whole")
    original = programs["evaluate"].roll_out
    asked = []

    def interrupted(player, waiting, *more):
        asked.append((player.name, len(waiting)))
        for number, episode in enumerate(original(player, waiting, *more)):
            yield episode
            if len(asked) == 1 and number == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(programs["evaluate"], "roll_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "cut")
    assert len(lines(tmp_path / "cut")) == 5 and not (tmp_path / "cut" / "results.json").exists()
    path = tmp_path / "cut" / "lapa.jsonl"
    path.write_text(path.read_text()[:-9])
    assert evaluate(tmp_path / "cut", num_processes=1) == whole
    assert asked == [("lapa", 8), ("lapa", 4), ("expert", 8), ("random", 8)]
    for name in ("lapa", "expert", "random"):
        assert lines(tmp_path / "cut", name) == lines(tmp_path / "whole", name)


def test_more_episodes_are_added_to_those_that_are_there(evaluate, programs, tmp_path, monkeypatch):
    evaluate(tmp_path)
    before = lines(tmp_path)
    original, asked = programs["evaluate"].roll_out, []

    def counted(player, waiting, *more):
        asked.append(len(waiting))
        return original(player, waiting, *more)

    monkeypatch.setattr(programs["evaluate"], "roll_out", counted)
    assert evaluate(tmp_path, episodes=12)["episodes"] == 12 and asked == [4, 4, 4]
    assert before.items() <= lines(tmp_path).items()
    assert evaluate(tmp_path, episodes=8)["episodes"] == 8 and asked == [4, 4, 4]


def test_another_policy_begins_anew_and_another_config_is_refused(evaluate, tmp_path, monkeypatch):
    evaluate(tmp_path)
    (tmp_path / "videos" / "lapa" / "old.mp4").touch()
    with pytest.raises(errors.UserError, match="execute: 2 there, 1 now"):
        evaluate(tmp_path, execute=1)
    monkeypatch.setattr(policies, "origin", lambda where: "checkpoint trained anew")
    evaluate(tmp_path)
    assert json.loads((tmp_path / "lapa.jsonl").read_text().splitlines()[0])["source"] == "checkpoint trained anew"
    assert len(lines(tmp_path)) == 8 and not (tmp_path / "videos" / "lapa" / "old.mp4").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bounds": ("expert", "perfect")}, "bounds='perfect': choose among expert, random"),
        ({"others": "expert=here"}, "bounds='expert'"),
        ({"others": "second"}, "others='second': give NAME=FOLDER"),
        ({"others": "a=x,a=y"}, "different names"),
        ({"families": ("up",)}, "no family 'up'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"execute": 0}, "execute=0"),
    ],
)
def test_mistakes_are_named(evaluate, tmp_path, changes, message):
    with pytest.raises(errors.UserError, match=message):
        evaluate(tmp_path, **changes)
    assert not (tmp_path / "config.json").exists()


KILLED = """
import functools, pathlib, sys, time
import fake_world
from lapa_jax import chunking
from lapa_jax.evaluation import filming, journals, rollouts
from lapa_jax.evaluation.closed_loop import pools

class Slow(fake_world.Walker):
    def infer(self, observation):
        time.sleep(float(sys.argv[2]))
        return super().infer(observation)

folder = pathlib.Path(sys.argv[1])
starts = rollouts.starts(fake_world.FAMILIES, 12)
with journals.Journal(folder / "slow.jsonl", "slow") as journal:
    films = filming.Filming(folder / "videos", 2, folder, journal.episodes.values())
    waiting = [one for one in starts if (one.family, one.seed) not in journal.episodes]
    with pools.open_pool(fake_world.World(), 3, 2, 60) as pool:
        print("pids", *[one._process.pid for one in pool._workers], flush=True)
        for one in rollouts.play(rollouts.trained("slow", Slow()), waiting, pool, lambda: chunking.make(2), films):
            journal.add(one)
            print("episode", flush=True)
"""


def killed(folder, wait):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "evaluation")])}
    command = [sys.executable, "-c", KILLED, str(folder), str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_process_loses_nothing_that_was_finished(tmp_path):
    """By a signal that nobody can catch; its workers end with it."""
    (tmp_path / "cut").mkdir(), (tmp_path / "whole").mkdir()
    first = killed(tmp_path / "cut", 0.1)
    workers = [int(pid) for pid in first.stdout.readline().split()[1:]]
    for _ in range(3):
        assert first.stdout.readline() == "episode\n"
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=waiting.PATIENCE)
    there = len(lines(tmp_path / "cut", "slow"))
    assert 3 <= there < 12
    for folder in ("cut", "whole"):
        printed, _ = killed(tmp_path / folder, 0).communicate(timeout=waiting.PATIENCE)
        assert printed.count("episode") == 12 - there * (folder == "cut")
    cut, whole = (lines(tmp_path / folder, "slow") for folder in ("cut", "whole"))
    for one in (*cut.values(), *whole.values()):
        del one["film"]
    assert cut == whole
    waiting.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


class Refused(RuntimeError):
    pass


@pytest.fixture
def client(monkeypatch):
    """A stand-in for the client package: one observation a call, as its server has it. Its clients, in order."""
    made = []

    class Client(fake_world.Walker):
        metadata = {**fake_world.Walker.metadata, "checkpoint": "abc"}

        def __init__(self, uri, token=None):
            super().__init__()
            if "nowhere" in uri:
                raise Refused("unreachable: no policy server")
            self.uri, self.token, self.closed = uri, token, False
            made.append(self)

        def infer(self, observation):
            assert not self.closed and observation["image"].shape == (16, 16, 3)
            if observation["instruction"] == "refuse":
                raise Refused("busy: try again")
            many = {name: np.asarray(value)[None] for name, value in observation.items()}
            return {"actions": super().infer(many)["actions"][0], "server_timing": {}}

        def close(self):
            self.closed = True

    monkeypatch.setitem(sys.modules, "lapa_client", types.SimpleNamespace(Client=Client, ServerError=Refused))
    return made


@pytest.mark.parametrize("processes", [0, 2])
def test_a_server_gives_the_same_results(client, monkeypatch, processes):
    monkeypatch.setenv(policies.TOKEN, "secret")
    starts = rollouts.starts(fake_world.FAMILIES, 10)

    def played(player):
        with pools.open_pool(fake_world.World(), 4, processes, 60) as pool:
            found = rollouts.play(player, starts, pool, lambda: chunking.make(2))
            return [(one.family, one.seed, one.success, one.length) for one in found]

    with policies.opened("ws://127.0.0.1:8000") as policy:
        mine = played(rollouts.trained("served", policy, full=False))
    assert mine == played(rollouts.trained("local", fake_world.Walker()))
    assert len(client) == 4 and all(one.closed and one.token == "secret" for one in client)
    assert sum(len(one.sizes) for one in client) == sum(-(-length // 2) for *_, length in mine)


def test_results_hang_on_the_checkpoint_and_not_on_where_it_is(client, tmp_path):
    assert policies.origin("ws://127.0.0.1:8000") == "checkpoint abc" and client[0].closed
    for folder in ("one", "copy"):
        (tmp_path / folder / "state").mkdir(parents=True)
        (tmp_path / folder / "state" / "weights").write_text("1")
    before = policies.origin(str(tmp_path / "one"))
    assert policies.origin(str(tmp_path / "copy")) == before
    (tmp_path / "one" / "state" / "weights").write_text("2")
    assert policies.origin(str(tmp_path / "one")) != before
    with pytest.raises(errors.UserError, match="no checkpoint under .*nowhere"):
        policies.origin(str(tmp_path / "nowhere"))


def test_trouble_with_a_server_is_one_line(client, monkeypatch):
    with pytest.raises(errors.UserError, match="ws://nowhere:1: unreachable"), policies.opened("ws://nowhere:1"):
        pass
    image = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(errors.UserError, match="ws://here:1: busy"), policies.opened("ws://here:1") as policy:
        policy.infer({"image": image, "instruction": ["go to 1", "refuse"], "proprio": np.zeros((2, 1))})
    monkeypatch.setattr(sys.modules["lapa_client"].Client, "metadata", {"cameras": ["image"]})
    with pytest.raises(errors.UserError, match="ws://here:1 tells no proprio_dim of its policy: it is no"):
        policies.origin("ws://here:1")
    assert client[-1].closed
    monkeypatch.setitem(sys.modules, "lapa_client", None)
    with pytest.raises(errors.UserError, match="need the client: run `pip install ./client`"):
        policies.origin("ws://127.0.0.1:8000")


def test_the_tabletop_is_the_same_in_other_processes():
    pytest.importorskip("pybullet", reason="PyBullet is not installed (extra [tabletop])")
    def played(processes):
        world = worlds.World("tabletop", {"split": "heldout"})
        starts = rollouts.starts(world.families(), 8, "expert")
        with pools.open_pool(world, 3, processes, 120) as pool:
            found = rollouts.play(rollouts.scripted("expert"), starts, pool, lambda: chunking.make(2))
            return [(one.family, one.seed, one.instruction, one.success, one.length) for one in found]

    here = played(0)
    assert played(2) == here and sum(one[3] for one in here) >= 7
