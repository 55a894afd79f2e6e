"""Closed-loop rollouts: policies drive seeded episodes of a gymnasium environment, in lockstep."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lapa_jax import chunking, envs

FIRST_SEED = 1 << 40
"""Episodes of evaluation never share a seed with a dataset (those stay far below)."""

Act = Callable[[list[Any], list[dict[str, Any]]], np.ndarray]
"""(environments, observations) -> float32[B, horizon, A] actions to be carried out in order."""


@dataclasses.dataclass
class Episode:
    """One finished episode; `frames` uint8[T, H, W, 3] are kept for the first of each batch only."""

    family: str
    seed: int
    instruction: str
    success: bool
    length: int
    frames: np.ndarray | None = None


def families(env: str, **kwargs: Any) -> tuple[str, ...]:
    """Task families of an environment, by asking one."""
    probe = envs.make(env, **kwargs)
    names = tuple(probe.unwrapped.families)
    probe.close()
    return names


def run_family(
    act: Act,
    env: str,
    family: str,
    num_episodes: int,
    chunks: Callable[[], chunking.Chunking],
    batch_size: int = 30,
    keep_frames: int = 8,
    **kwargs: Any,
) -> list[Episode]:
    """`num_episodes` episodes of one task family, `batch_size` at a time.

    Args:
        chunks: makes what says which actions of the predicted chunks are carried out before looking again.
        keep_frames: how many episodes keep their frames.
        kwargs: of the environment.
    """
    pool = [envs.make(env, families=(family,), **kwargs) for _ in range(min(batch_size, num_episodes))]
    done: list[Episode] = []
    try:
        while len(done) < num_episodes:
            count = min(len(pool), num_episodes - len(done))
            seeds = [FIRST_SEED + len(done) + i for i in range(count)]
            done += _run_batch(act, pool, seeds, family, chunks(), keep_frames - len(done))
    finally:
        for one in pool:
            one.close()
    return done


def _run_batch(
    act: Act, pool: list[Any], seeds: Sequence[int], family: str, chunks: chunking.Chunking, keep: int
) -> list[Episode]:
    """One episode in each of the first environments. Finished ones are shown on but no longer step, so
    that the policy always sees a full batch and compiles once."""
    observations = [one.reset(seed=seed)[0] for one, seed in zip(pool, seeds, strict=False)]
    observations += [one.reset(seed=seeds[0])[0] for one in pool[len(seeds) :]]
    episodes = [Episode(family, s, o["instruction"], False, 0) for s, o in zip(seeds, observations, strict=False)]
    frames = [[o["image"]] for o in observations]
    live = set(range(len(seeds)))
    while live:
        for actions in chunks.next(act(pool, observations)):
            for i in sorted(live):
                observations[i], _, terminated, truncated, info = pool[i].step(actions[i])
                frames[i].append(observations[i]["image"])
                if terminated or truncated:
                    episodes[i].success, episodes[i].length = bool(info["success"]), len(frames[i]) - 1
                    live.discard(i)
    for i in range(min(max(keep, 0), len(episodes))):
        episodes[i].frames = np.stack(frames[i])
    return episodes


def random_act(seed: int = 0) -> Act:
    """Uniform over the action box: the lower bound."""
    rng = np.random.default_rng(seed)

    def act(pool: list[Any], observations: list[dict[str, Any]]) -> np.ndarray:
        del observations
        space = pool[0].action_space
        shape = (len(pool), 1, *space.shape)
        return rng.uniform(space.low, space.high, shape).astype(np.float32)

    return act


def expert_act(env: str, seed: int = 0) -> Act:
    """The environment's own scripted expert, which sees the true state: the upper bound."""
    rng = np.random.default_rng(seed)
    scripted = envs.expert(env)
    return lambda pool, observations: np.stack([scripted.action(one, rng) for one in pool])[:, None]


def policy_act(policy: Any) -> Act:
    """A trained policy on images and instructions alone."""

    def act(pool: list[Any], observations: list[dict[str, Any]]) -> np.ndarray:
        del pool
        image = np.stack([o["image"] for o in observations])
        return policy.infer({"image": image, "instruction": [o["instruction"] for o in observations]})["actions"]

    return act
