"""Closed-loop evaluation: episodes a second by the number of processes that hold the environments.

    pip install -e '.[tabletop]'
    python benchmarks/evaluation.py --minutes=5
    python benchmarks/evaluation.py --policy=runs/demo/finetune --minutes=10 --json=runs/evaluation.json

The scripted expert acts where the environment is, so it measures environments and processes alone; with --policy a
trained policy is measured, too. All numbers of processes play the same episodes and take turns; the baseline is
none, with the environments in the program itself. Starting processes and compiling are not measured.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from absl import app, flags, logging

from lapa_jax import chunking, errors
from lapa_jax.evaluation import rollouts
from lapa_jax.evaluation.closed_loop import pools, worlds
from race import told, turns

_ENV = flags.DEFINE_string("env", "tabletop", "Environment.")
_SPLIT = flags.DEFINE_string("env_split", "heldout", "Of the environment; empty: it has no splits.")
_POLICY = flags.DEFINE_string("policy", None, "Folder of a finetune run.")
_PROCESSES = flags.DEFINE_list("processes", ["1", "2", "4"], "Numbers of processes beside none.")
_EPISODES = flags.DEFINE_integer("episodes", 64, "Of a turn, evenly over the families.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 32, "Episodes that are played at a time.", lower_bound=1)
_EXECUTE = flags.DEFINE_integer("execute", 2, "Actions carried out of each chunk.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each number of processes.", lower_bound=2)
_MINUTES = flags.DEFINE_float("minutes", 5.0, "For each of the two drivers.")
_JSON = flags.DEFINE_string("json", None, "File for all numbers.")

BASELINE = "0"


def players() -> dict[str, rollouts.Player]:
    """The expert, and the policy where one is given."""
    found = {"expert": rollouts.scripted("expert")}
    if _POLICY.value:
        from lapa_jax.policy import Policy  # starts JAX

        found["policy"] = rollouts.trained("policy", Policy.from_checkpoint(_POLICY.value))
    return found


def contestant(
    pool: pools.Pool, drivers: Mapping[str, rollouts.Player], families: tuple[str, ...]
) -> Callable[[str, int], tuple[float, float]]:
    """(driver, times) -> seconds of playing all episodes so often."""
    chunks = functools.partial(chunking.make, _EXECUTE.value)

    def play(task: str, times: int) -> tuple[float, float]:
        player = drivers[task]
        starts = rollouts.starts(families, _EPISODES.value, player.driver)
        return turns.timed(lambda: list(rollouts.play(player, starts, pool, chunks)), times)

    return play


def measure() -> dict[str, Any]:
    """Driver -> number of processes -> episodes a second of each turn."""
    world = worlds.World(_ENV.value, {"split": _SPLIT.value} if _SPLIT.value else {})
    drivers, families, found = players(), world.families(), {}
    episodes = len(rollouts.starts(families, _EPISODES.value))
    with contextlib.ExitStack() as stack:
        competing = {}
        for count in (0, *told.batches(_PROCESSES.value, "processes")):
            pool = stack.enter_context(pools.open_pool(world, _BATCH.value, count, timeout=600.0))
            competing[str(count)] = contestant(pool, drivers, families)
        for name in drivers:
            found[name] = turns.race(competing, name, episodes, _ROUNDS.value, _MINUTES.value * 60)
            print(found[name].lines(name, "episodes", BASELINE), flush=True)
    return found


def _run() -> None:
    about = {"env": _ENV.value, "batch": _BATCH.value, "cores": len(os.sched_getaffinity(0))}
    print(f"{about['env']}, {about['batch']} episodes at a time, {about['cores']} cores; by number of processes")
    races = {name: dataclasses.asdict(speeds) for name, speeds in measure().items()}
    for speeds in races.values():
        del speeds["per_core"]  # processor time of this process only
    told.write(_JSON.value, _ENV.value, about | {"races": races})


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file at INFO
    with errors.in_one_line():
        _run()


if __name__ == "__main__":
    app.run(main)
