"""Drive the robot: success of policies over seeded closed-loop episodes, with 95 % Wilson intervals.

    python experiments/evaluate.py --config=experiments/configs/evaluate.py:demo --workdir=runs/demo/evaluation \
        --config.policies.lapa=runs/demo/finetune
    python experiments/evaluate.py --config=experiments/configs/evaluate.py:demo --workdir=runs/demo/served \
        --config.policies.lapa=ws://127.0.0.1:8000 --config.num_processes=2

Interrupt it at any point and run it again: episodes that are over are not played again.
"""

import contextlib
import functools
import json
import pathlib
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import launch
import policies

from lapa_jax import checkpoints, chunking, errors
from lapa_jax.evaluation import filming, intervals, journals, rollouts
from lapa_jax.evaluation.closed_loop import drivers, pools, worlds

CONFIG, WORKDIR = launch.define("evaluate")

FREE = (*checkpoints.FREE, "episodes", "num_processes", "timeout", "videos", "bounds")
"""Keys that may differ when an evaluation goes on: what is played already stays as true."""


def roll_out(
    player: rollouts.Player, waiting: Sequence[worlds.Start], films: filming.Filming, config: Any
) -> Iterator[filming.Episode]:
    """Plays the episodes of one player that are still missing."""
    chunks = functools.partial(chunking.make, config.execute, config.ensemble)
    size = min(config.batch_size, len(waiting)) if player.infer is None else config.batch_size
    with pools.open_pool(world_of(config), size, config.num_processes, config.timeout) as pool:
        yield from rollouts.play(player, waiting, pool, chunks, films)


@contextlib.contextmanager
def player_of(name: str, where: str | None, source: str) -> Iterator[rollouts.Player]:
    """A scripted driver, or the policy that is there, see `policies.opened`."""
    if where is None:
        yield rollouts.scripted(name)
    else:
        with policies.opened(where, source) as policy:
            yield rollouts.trained(name, policy, full=not policies.is_address(where))


def world_of(config: Any) -> worlds.World:
    return worlds.World.of(config.env, config.env_split, config.env_args)


def count(episodes: Sequence[filming.Episode]) -> dict[str, Any]:
    """Successes with their interval, and the mean steps of those that succeeded."""
    won = [e.length for e in episodes if e.success]
    interval = intervals.wilson(len(won), len(episodes))
    length = statistics.mean(won) if won else None
    return {"successes": len(won), "trials": len(episodes), "interval": interval, "length": length}


def tally(episodes: Sequence[filming.Episode], families: Sequence[str]) -> dict[str, Any]:
    """Counts by family and in all."""
    by_family = {n: count([e for e in episodes if e.family == n]) for n in families}
    return {"families": by_family, "all": count(episodes)}


class Progress:
    """A line when the last episode of a family has ended."""

    def __init__(self, name: str, starts: Sequence[worlds.Start], done: Sequence[filming.Episode]) -> None:
        self._name, self._begun = name, time.perf_counter()
        self._left = {start.family: 0 for start in starts}
        for start in starts:
            self._left[start.family] += 1
        self._won: dict[str, list[int]] = {family: [] for family in self._left}
        self._all = dict(self._left)
        for episode in done:
            self.note(episode, quiet=True)

    def note(self, episode: filming.Episode, quiet: bool = False) -> None:
        family = episode.family
        self._left[family] -= 1
        if episode.success:
            self._won[family].append(episode.length)
        if not self._left[family] and not quiet:
            won, seconds = self._won[family], time.perf_counter() - self._begun
            steps = f" in {statistics.mean(won):.1f} steps" if won else ""
            line = f"{self._name} {family}: {len(won)}/{self._all[family]}{steps}, after {seconds:.1f} s"
            print(f"[evaluate] {line}", flush=True)


def evaluate(
    name: str, where: str | None, source: str, families: Sequence[str],
    folder: pathlib.Path, config: Any, show: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tally, films for the report) of one player; plays what its journal has not.

    Args:
        where: its folder or address; None: it is scripted.
        source: what its results depend on.
        show: whether its films are the ones for the report.
    """
    driver = name if where is None else "policy"
    starts, videos = rollouts.starts(families, config.episodes, driver), folder / "videos" / name
    with journals.Journal(folder / f"{name}.jsonl", source) as journal:
        if not journal.episodes:
            shutil.rmtree(videos, ignore_errors=True)  # of another policy, or of a run that was killed early
        films = filming.Filming(videos, config.videos, folder if show else None, journal.episodes.values())
        found = [journal.episodes.get((start.family, start.seed)) for start in starts]
        waiting = [start for start, episode in zip(starts, found, strict=True) if episode is None]
        if waiting:
            progress = Progress(name, starts, [episode for episode in found if episode])
            with player_of(name, where, source) as player:
                for episode in roll_out(player, waiting, films, config):
                    journal.add(episode)
                    progress.note(episode)
        episodes = [journal.episodes[start.family, start.seed] for start in starts]
    return tally(episodes, families), films.shown(name) if show else {}


def main(_: Any) -> None:
    config, folder = CONFIG.value, pathlib.Path(WORKDIR.value)
    places = {name: where for name, where in config.policies.items() if where is not None}
    places |= policies.named(config.others)
    if not places:
        raise errors.UserError("which policy? give --config.policies.lapa=FOLDER of a finetune run")
    strange = [name for name in config.bounds if name not in drivers.DRIVERS or name in places]
    if strange:
        raise errors.UserError(f"bounds={strange[0]!r}: choose among {', '.join(drivers.DRIVERS)}, each name once")
    launch.start(config, share="nothing")
    chunking.make(config.execute, config.ensemble)
    pools.check(config.batch_size, config.num_processes, config.timeout)
    sources = {name: policies.origin(where) for name, where in places.items()} | {b: b for b in config.bounds}
    families = world_of(config).families(tuple(config.families))
    if "expert" in config.bounds:
        world_of(config).expert()  # an environment may have none: better now than after all policies
    checkpoints.claim(WORKDIR.value, config.to_dict(), FREE)
    results: dict[str, Any] = {"split": config.env_split, "policies": {}, "gifs": {}}
    first = "lapa" if "lapa" in places else min(places)
    for name in (*sorted(places), *config.bounds):
        where, source = places.get(name), sources[name]
        results["policies"][name], shown = evaluate(name, where, source, families, folder, config, name == first)
        results["gifs"] |= shown
    results["episodes"] = next(iter(results["policies"].values()))["all"]["trials"]
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(intervals.success_table(results))


if __name__ == "__main__":
    launch.run(main)
