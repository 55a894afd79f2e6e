"""Closed-loop rollouts: a policy or a scripted driver plays seeded episodes, many at a time.

Between two looks of the policy each episode carries out its own chunk, in the process where its environment is. One
that ends makes room for the next at the following look. Which episode gets which slot hangs on the number of slots
alone, so the number of processes changes nothing.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax import chunking, errors
from lapa_jax.evaluation import filming
from lapa_jax.evaluation.closed_loop import observations, pools, worlds

LAST = "last_latents"
"""Key of an observation: the latent action that the policy planned at its last look."""

FIRST_SEED = 1 << 40
"""Episodes of evaluation never share a seed with a dataset (those stay far below)."""


@dataclasses.dataclass(frozen=True)
class Player:
    """Who drives.

    Attributes:
        name: as errors and results have it.
        driver: `policy`, or one of `closed_loop.drivers`.
        infer: of a policy, see `Policy.infer`.
        wanted: what a policy is shown.
        remembered: numbers of the latent action that a policy is told of its last look; 0: it is not.
        steps: that this policy expects between two looks; 0: any number.
        full: whether each batch is filled up to one size, so that a policy compiles once.
    """

    name: str
    driver: str = "policy"
    infer: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]] | None = None
    wanted: observations.Wanted | None = None
    remembered: int = 0
    steps: int = 0
    full: bool = True


def scripted(name: str) -> Player:
    """The scripted driver `expert` or `random`."""
    return Player(name, name)


def trained(name: str, policy: Any, full: bool = True) -> Player:
    """A `Policy`, or anything that answers as one: `infer`, and `metadata` that says which cameras it wants."""
    sees = getattr(policy, "metadata", None) or {"cameras": ["image"], "proprio_dim": None}
    history = sees.get("history", 0)
    remembered = sees["code_length"] if history else 0
    return Player(name, "policy", policy.infer, observations.Wanted.of(sees), remembered, history, full)


def starts(families: Sequence[str], episodes: int, driver: str = "policy") -> list[worlds.Start]:
    """At least `episodes` starts, as many of each family, the same whoever plays."""
    each = range(-(-episodes // len(families)))
    return [worlds.Start(family, FIRST_SEED + i, driver) for family in families for i in each]


def play(
    player: Player,
    waiting: Iterable[worlds.Start],
    pool: pools.Pool,
    chunks: Callable[[], chunking.Chunking],
    films: filming.Filming | None = None,
) -> Iterator[filming.Episode]:
    """Plays all that wait, and gives episodes as they end.

    Args:
        chunks: makes what says which actions of the predicted chunks are carried out; one an episode.
        films: which episodes are filmed, and where.

    Raises:
        UserError: an environment fails, or the policy answers no actions; names the episode.
    """
    queue, playing = collections.deque(waiting), {}
    while queue or playing:
        free = [slot for slot in range(pool.size) if slot not in playing]
        begun = {slot: queue.popleft() for slot in free[: len(queue)]}
        commands = {
            slot: ("begin", (start, player.wanted, bool(films and films.wants(start.family))))
            for slot, start in begun.items()
        }
        for slot, view in pool.ask(commands).items():
            playing[slot] = _Playing(begun[slot], chunks(), view, np.full(player.remembered, -1, np.int32))
        actions = _look(player, playing, pool.size)
        for slot, view in pool.ask({slot: ("go_on", (actions[slot],)) for slot in playing}).items():
            playing[slot].view = view
            if view.done:
                yield _ended(playing.pop(slot), slot, pool, films)


@dataclasses.dataclass
class _Playing:
    """An episode that is played; `latents` int[N] are those of the last look, -1 before the first."""

    start: worlds.Start
    plan: chunking.Chunking
    view: worlds.View
    latents: np.ndarray


def _look(player: Player, playing: Mapping[int, _Playing], size: int) -> dict[int, np.ndarray | None]:
    """slot -> float[K, A] to be carried out, or None where the driver is scripted."""
    if player.infer is None:
        return dict.fromkeys(playing)
    rows = [one.view.observation for one in playing.values()]
    if player.remembered:
        rows = [{**row, LAST: one.latents} for row, one in zip(rows, playing.values(), strict=True)]
    rows += rows[:1] * (size - len(rows)) if player.full else []
    answer = player.infer(observations.batch(rows))
    chunk = _checked(player, answer, list(playing.values()), len(rows))
    planned = {}
    for i, (slot, one) in enumerate(playing.items()):
        planned[slot] = one.plan.next(chunk[i : i + 1])[:, 0]
        if player.remembered:
            one.latents = np.asarray(answer["latents"][i])
        _check_steps(player, len(planned[slot]))
    return planned


def _check_steps(player: Player, count: int) -> None:
    if player.steps and count != player.steps:
        raise errors.UserError(
            f"policy {player.name} is told the latents of {player.steps} steps before and looks every {count}: set "
            f"execute={player.steps}, and no ensemble"
        )


def _checked(player: Player, answer: Mapping[str, Any], playing: Sequence[_Playing], size: int) -> np.ndarray:
    """The actions of a policy's answer, float[B, horizon, A].

    Raises:
        UserError: there are none, of another shape, or some are not finite.
    """
    chunk = np.asarray(answer["actions"] if "actions" in answer else None)
    if chunk.ndim != 3 or len(chunk) != size or 0 in chunk.shape or chunk.dtype.kind != "f":
        raise errors.UserError(
            f"policy {player.name} answers actions {chunk.dtype}{list(chunk.shape)} to {size} observations, where "
            f"float[{size}, horizon, A] is expected"
        )
    for one, row in zip(playing, chunk, strict=False):
        if not np.isfinite(row).all():
            raise errors.UserError(
                f"policy {player.name} answers actions that are not finite in {one.start}, at step "
                f"{one.view.length}: its weights or its normalisation are damaged"
            )
    return chunk


def _ended(one: _Playing, slot: int, pool: pools.Pool, films: filming.Filming | None) -> filming.Episode:
    view = one.view
    episode = filming.Episode(
        one.start.family, one.start.seed, view.instruction, view.success, view.length, round(view.seconds, 3)
    )
    if films is None:
        return episode
    episode, paths = films.choose(episode)
    if paths:
        pool.ask({slot: ("film", (paths,))})
    return episode
