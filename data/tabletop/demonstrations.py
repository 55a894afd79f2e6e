"""Episodes of the scripted expert on the tabletop, in parallel and in a fixed order.

Imports no TFDS, so that the worker processes start fast.
"""

import contextlib
import dataclasses
import functools
import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import transforms

# Attempts on one split have seeds of their own: (recipe seed, split number) in the high bits.
_SPLIT_NUMBERS = {"train": 0, "val": 1, "labelled": 2}
_ENV_SPLITS = {"train": "video", "val": "video", "labelled": "labelled"}
_ATTEMPT_BITS = 24
# The expert is expected to succeed far more often than this.
_MIN_SUCCESS_RATE = 0.2
_MIN_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the contents of the dataset.

    Attributes:
        expert_noise: std of the expert's perturbation, metres a step.
        image_size: side of the stored frames, pixels.
        environment: module with `TabletopEnv`-like `make(split=, image_size=)`; its `expert`
            submodule or itself has `Expert(noise=)`.
    """

    train_episodes: int = 400
    val_episodes: int = 40
    labelled_episodes: int = 60
    seed: int = 0
    image_size: int = 64
    expert_noise: float = 0.006
    environment: str = "lapa_jax.envs.tabletop"

    def __post_init__(self):
        for split in _SPLIT_NUMBERS:
            if self.num_episodes(split) < 1:
                raise errors.UserError(f"{split}_episodes must be 1 or more, to fill the split")

    def num_episodes(self, split: str) -> int:
        return getattr(self, f"{split}_episodes")

    def episode_seed(self, split: str, attempt: int) -> int:
        """Seeds of different splits, and of the same split under another seed, never meet."""
        high = self.seed * len(_SPLIT_NUMBERS) + _SPLIT_NUMBERS[split]
        return (high << _ATTEMPT_BITS) + attempt


def demonstrations(
    recipe: Recipe, split: str, num_workers: int, on_attempt: Callable[[bool], None]
) -> Iterator[dict[str, Any]]:
    """Yields `recipe.num_episodes(split)` successful episodes, ordered by seed.

    `on_attempt` is told of each attempt whether it succeeded. The episodes do not depend on
    `num_workers`; 0 runs in this process.

    Raises:
        UserError: the expert hardly ever succeeds.
    """
    missing, attempts = recipe.num_episodes(split), 0
    with _pool(num_workers) as run:
        while missing:
            # Never more attempts than episodes still missing: none that succeeds is thrown away.
            seeds = [recipe.episode_seed(split, attempts + i) for i in range(missing)]
            attempts += missing
            for episode in run(functools.partial(simulate, recipe, _ENV_SPLITS[split]), seeds):
                on_attempt(episode["success"])
                if episode["success"]:
                    missing -= 1
                    yield episode
            kept = recipe.num_episodes(split) - missing
            if attempts >= _MIN_ATTEMPTS and kept < _MIN_SUCCESS_RATE * attempts:
                raise errors.UserError(
                    f"the expert succeeded in {kept} of {attempts} {split} episodes; "
                    f"lower expert_noise ({recipe.expert_noise})"
                )


def simulate(recipe: Recipe, env_split: str, seed: int) -> dict[str, Any]:
    """Plays one episode: observation t and the action taken in it, for each step t.

    Returns:
        images list[bytes] (PNG), effector float32[T, 2], actions float32[T, 2],
        rewards float32[T], instruction, family, seed, success.
    """
    env, expert = _environment(recipe, env_split)
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    instruction, images, effector, actions, rewards = observation["instruction"], [], [], [], []
    done = False
    while not done:
        action = expert.action(env, rng)
        images.append(transforms.encode_png(observation["image"]))
        effector.append(observation["effector"])
        actions.append(action)
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        done = terminated or truncated
    return {
        "images": images,
        "effector": np.asarray(effector, np.float32),
        "actions": np.asarray(actions, np.float32),
        "rewards": np.asarray(rewards, np.float32),
        "instruction": instruction,
        "family": str(info["family"]),
        "seed": seed,
        "success": bool(info["success"]),
    }


@functools.lru_cache(maxsize=1)
def _environment(recipe: Recipe, env_split: str) -> tuple[Any, Any]:
    """One simulator a process, kept for the episodes that follow."""
    module = importlib.import_module(recipe.environment)
    expert = importlib.import_module(f"{recipe.environment}.expert")
    env = module.make(split=env_split, image_size=recipe.image_size)
    return env, expert.Expert(noise=recipe.expert_noise)


@contextlib.contextmanager
def _pool(num_workers: int) -> Iterator[Callable]:
    """An ordered, lazy `map`; spawned processes share no simulator or thread with this one."""
    if num_workers == 0:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        yield pool.imap
