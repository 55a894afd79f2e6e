"""Policies and scripted drivers in environments: in this process and in others, whole, interrupted and broken."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import fake_world
import numpy as np
import pytest

from lapa_jax import chunking, errors
from lapa_jax.evaluation import filming, rollouts
from lapa_jax.evaluation.closed_loop import observations, pools, worlds

ROOT = Path(__file__).resolve().parent.parent.parent


def play(player, families=fake_world.FAMILIES, episodes=14, size=4, processes=0, execute=2, ensemble=None, **more):
    """Episodes by (family, seed), without their seconds."""
    waiting = more.pop("waiting", None) or rollouts.starts(families, episodes, player.driver)
    chunks = functools.partial(chunking.make, execute, ensemble)
    with pools.open_pool(fake_world.World(), size, processes, more.pop("timeout", 60)) as pool:
        found = list(rollouts.play(player, waiting, pool, chunks, **more))
    assert len(found) == len(waiting) == len({(one.family, one.seed) for one in found})
    return {(one.family, one.seed): dataclasses.replace(one, seconds=0.0) for one in found}


def walker(**more):
    return rollouts.trained("walker", fake_world.Walker(**more))


@pytest.fixture(scope="module")
def alone():
    """Each episode by itself."""
    return play(walker(), size=1)


def test_episodes_end_as_they_should(alone):
    assert len(alone) == 14 and {one.success for one in alone.values()} == {True}
    assert len({one.length for one in alone.values()}) > 3
    seeds = {seed for _, seed in alone}
    assert seeds == set(range(rollouts.FIRST_SEED, rollouts.FIRST_SEED + 7))
    lost = play(rollouts.scripted("random"))
    assert any(not one.success and one.length == fake_world.STEPS for one in lost.values())


@pytest.mark.parametrize("size, processes", [(4, 0), (30, 0), (5, 1), (5, 2), (3, 8)])
def test_neither_batch_nor_processes_change_a_result(alone, size, processes):
    assert play(walker(), size=size, processes=processes) == alone


@pytest.mark.parametrize("name", ["expert", "random"])
def test_scripted_drivers_are_a_function_of_the_seed(name):
    here = play(rollouts.scripted(name), size=1)
    assert play(rollouts.scripted(name), size=5, processes=2) == here
    assert name == "random" or all(one.success for one in here.values())


def test_the_order_changes_nothing(alone):
    waiting = rollouts.starts(fake_world.FAMILIES, 14)[::-1]
    assert play(walker(), waiting=waiting) == alone


def test_a_free_slot_takes_the_next_episode_at_once():
    """Fewer looks than in lockstep, where each batch waits for its longest episode; always a whole batch."""
    player = walker()
    lengths = [one.length for one in play(player, size=4).values()]
    sizes = player.infer.__self__.sizes
    looks = [-(-length // 2) for length in lengths]
    lockstep = sum(max(looks[i : i + 4]) for i in range(0, 14, 4))
    assert set(sizes) == {4} and sum(looks) / 4 <= len(sizes) < lockstep


@pytest.mark.parametrize("execute, ensemble, steps_a_look", [(1, None, 1), (3, None, 3), (3, 0.01, 1)])
def test_a_policy_looks_as_often_as_it_is_told(execute, ensemble, steps_a_look):
    player = walker()
    (one,) = play(player, families=("left",), episodes=1, size=1, execute=execute, ensemble=ensemble).values()
    assert one.length > 3 and len(player.infer.__self__.sizes) == -(-one.length // steps_a_look)


def test_each_episode_begins_a_plan_of_its_own():
    """Nothing of an earlier episode is in an ensemble."""
    one = play(walker(), size=1, ensemble=0.0)
    assert play(walker(), size=5, ensemble=0.0) == one


def test_the_policy_is_shown_what_its_metadata_names():
    shown = []

    class Watcher(fake_world.Walker):
        def infer(self, observation):
            shown.append(observation)
            return super().infer(observation)

    play(rollouts.trained("w", Watcher()), episodes=2, size=2)
    first = shown[0]
    assert set(first) == {"image", "proprio", "instruction"} and first["image"].shape == (2, 16, 16, 3)
    assert first["proprio"].shape == (2, 1) and first["proprio"].dtype == np.float32


def test_a_policy_without_metadata_is_shown_image_and_instruction():
    class Plain:
        def infer(self, observation):
            assert set(observation) == {"image", "instruction"}
            return {"actions": np.zeros((len(observation["image"]), 2, 2), np.float32)}

    play(rollouts.trained("plain", Plain()), episodes=2)


class Rememberer(fake_world.Walker):
    """Its speed hangs on the latents that it is told, which count its looks."""

    metadata = fake_world.Walker.metadata | {"history": 2, "code_length": 2}

    def infer(self, observation, seed=None):
        warming = not any(observation["instruction"])  # up, as a server does
        told = np.full((len(observation["image"]), 2), -1, np.int32) if warming else observation["last_latents"]
        assert told.shape == (len(observation["image"]), 2) and told.dtype == np.int32
        slow = 1 / (2 + told[:, 0].astype(np.float32))[:, None, None]
        return {"actions": super().infer(observation)["actions"] * slow, "latents": told + 1}


def test_a_policy_is_told_what_it_planned_at_its_last_look():
    """Of the same episode; -1 before the first."""
    alone = play(rollouts.trained("r", Rememberer()), size=1)
    assert play(rollouts.trained("r", Rememberer()), size=5, processes=1) == alone
    assert alone != play(walker(), size=1)
    with pytest.raises(errors.UserError, match="of 2 steps before and looks every 3: set execute=2"):
        play(rollouts.trained("r", Rememberer()), execute=3)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"cameras": ["image", "wrist"], "proprio_dim": None}, "wants 'wrist' and .* image, instruction, pro"),
        ({"cameras": ["image"], "proprio_dim": 3}, r"proprio of 3 numbers, .* shape \[1\]"),
        ({"cameras": ["proprio"], "proprio_dim": None}, r"proprio is float32\[1\]"),
    ],
)
@pytest.mark.parametrize("processes", [0, 1])
def test_what_an_environment_lacks_is_named(metadata, message, processes):
    policy = fake_world.Walker()
    policy.metadata = metadata
    with pytest.raises(errors.UserError, match=f"environment line, family left, seed 109.*{message}"):
        play(rollouts.trained("w", policy), processes=processes)


def test_a_camera_of_another_type_is_named():
    with pytest.raises(errors.UserError, match=r"^image is float32\[16, 16, 3\] in the environment"):
        observations.shown(fake_world.Env("blind").reset(seed=0)[0], observations.Wanted())
    with pytest.raises(errors.UserError, match=r"family blind, seed .*image is float32\[16, 16, 3\]"):
        play(walker(), families=("blind",))


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_an_environment_that_raises_is_named(processes, capfd):
    with pytest.raises(errors.UserError, match=r"family raise, seed 1099511627776: RuntimeError: the arm fell off"):
        play(walker(), families=("left", "raise"), processes=processes)
    assert "in step" in capfd.readouterr().err


@pytest.mark.parametrize("driver", ["policy", "expert"])
def test_a_process_that_dies_is_named(driver):
    player = walker() if driver == "policy" else rollouts.scripted(driver)
    with pytest.raises(errors.UserError, match=r"line, family crash, seed 10995116277.*died \(exit status 7\)"):
        play(player, families=("crash",), processes=2)


def test_a_process_that_hangs_is_named_and_ended():
    with pytest.raises(errors.UserError, match=r"family hang, seed 10995\d*: no answer .* within 0.5 s.*timeout"):
        with pools.open_pool(fake_world.World(), 2, 1, 30.0) as pool:
            list(rollouts.play(walker(), rollouts.starts(("left",), 1), pool, lambda: chunking.make(2)))
            (child,) = pool._workers
            child_process, pool._timeout = child._process, 0.5
            list(rollouts.play(walker(), rollouts.starts(("hang",), 1), pool, lambda: chunking.make(2)))
    assert child_process.poll() is not None


def test_nothing_of_an_error_counts_as_a_failure():
    """What ended before it is given, and no more."""
    found = []
    with pytest.raises(errors.UserError), pools.open_pool(fake_world.World(), 1, 1, 60) as pool:
        for one in rollouts.play(walker(), rollouts.starts(("left", "crash"), 4), pool, lambda: chunking.make(2)):
            found.append(one)
    assert [one.family for one in found] == ["left", "left"] and all(one.success for one in found)


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda n: np.full((n, 3, 2), np.nan, np.float32), "policy w answers .* not finite in family left, seed 1"),
        (lambda n: np.zeros((n, 2), np.float32), r"policy w answers actions float32\[4, 2\] to 4 observations"),
        (lambda n: np.zeros((1, 3, 2), np.float32), r"float32\[1, 3, 2\] to 4 observations"),
        (lambda n: np.zeros((n, 3, 2), np.int32), r"int32\[4, 3, 2\]"),
        (lambda n: np.zeros((n, 3, 7), np.float32), r"family left.*action has shape \[7\], .* takes \[2\]"),
        (lambda n: None, r"policy w answers actions object\[\]"),
    ],
)
def test_made_up_actions_are_never_carried_out(answer, message):
    class Wrong:
        def infer(self, observation):
            return {"actions": answer(len(observation["image"]))}

    with pytest.raises(errors.UserError, match=message):
        play(rollouts.trained("w", Wrong()))


def test_a_nan_names_its_step():
    class Late(fake_world.Walker):
        def infer(self, observation):
            actions = super().infer(observation)["actions"]
            return {"actions": actions * (np.nan if len(self.sizes) > 2 else 1)}

    with pytest.raises(errors.UserError, match="not finite in family left, seed 1099511627778, at step 4"):
        play(rollouts.trained("late", Late()))


def test_films_are_of_each_family_and_outcome(tmp_path):
    def films(done=()):
        return filming.Filming(tmp_path / "videos", 1, tmp_path, done)

    mine = films()
    found = play(rollouts.scripted("random"), episodes=40, films=mine)
    again = play(rollouts.scripted("random"), episodes=40, films=films(), processes=2)
    assert again == found and list(again) == list(found)
    filmed = [one for one in found.values() if one.film]
    kinds = {(one.family, one.success) for one in filmed}
    assert len(filmed) == len(kinds) == len({(one.family, one.success) for one in found.values()})
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {one.film for one in filmed}
    shown = mine.shown("random")
    for outcome, success in (("success", True), ("failure", False)):
        longest = max((one for one in filmed if one.success == success), key=lambda one: one.length)
        assert shown[outcome]["instruction"] == longest.instruction and (tmp_path / f"{outcome}.gif").exists()
    # A run that goes on has its quota already, and the same showcase.
    later = films(found.values())
    assert later.shown("random") == shown and not later.wants("left") and not later.choose(filmed[0])[1]


def test_families_are_checked():
    assert fake_world.World().families() == fake_world.FAMILIES
    assert fake_world.World().families(("right",)) == ("right",)
    with pytest.raises(errors.UserError, match="line has no family 'up'; it has: left, right"):
        fake_world.World().families(("up",))


def test_a_world_is_what_a_config_says():
    world = worlds.World.of("line", "heldout", '{"camera": "top", "size": 3}', size=2)
    assert world == worlds.World("line", {"split": "heldout", "camera": "top", "size": 3})
    assert worlds.World.of("line").kwargs == {}
    for wrong in ("{", "[1]", "camera=top"):
        with pytest.raises(errors.UserError, match="env_args=.*give a JSON object"):
            worlds.World.of("line", "", wrong)


@pytest.mark.parametrize("size, processes, timeout", [(0, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_numbers_that_make_no_sense_are_refused(size, processes, timeout):
    with pytest.raises(errors.UserError, match=f"batch_size={size}, num_processes={processes}"):
        pools.open_pool(worlds.World("tabletop"), size, processes, timeout)


def test_workers_do_without_jax():
    script = "import sys; import lapa_jax.evaluation.closed_loop.worker; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
