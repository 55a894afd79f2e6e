"""Episodes of a scripted expert in any environment, in parallel and in a fixed order.

Imports no TFDS, so that the worker processes start fast.
"""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import environments
import numpy as np

from lapa_jax import envs, errors
from lapa_jax.data import transforms

# Attempts on one split have seeds of their own: (recipe seed, split number) in the high bits.
_SPLIT_NUMBERS = {split: number for number, split in enumerate(environments.SPLITS)}
_ATTEMPT_BITS = 24
# The expert is expected to succeed far more often than this.
_MIN_SUCCESS_RATE = 0.2
_MIN_ATTEMPTS = 50


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides the contents of the dataset.

    Attributes:
        expert_noise: std of the expert's perturbation, in units of the action.
        image_size: side of the stored frames, pixels.
        environment: module of the environment, see `lapa_jax.envs`.
        name: of the dataset.
        env_args: further arguments of the environment's `make`, as JSON.
    """

    train_episodes: int = 400
    val_episodes: int = 40
    labelled_episodes: int = 60
    seed: int = 0
    image_size: int = 64
    expert_noise: float = 0.006
    environment: str = "lapa_jax.envs.tabletop"
    name: str = "tabletop"
    env_args: str = "{}"

    def __post_init__(self):
        for split in _SPLIT_NUMBERS:
            if self.num_episodes(split) < 1:
                raise errors.UserError(f"{split}_episodes must be 1 or more, to fill the split")
        object.__setattr__(self, "env_args", json.dumps(_arguments(self.env_args), sort_keys=True))

    def num_episodes(self, split: str) -> int:
        return getattr(self, f"{split}_episodes")

    def episode_seed(self, split: str, attempt: int) -> int:
        """Seeds of different splits, and of the same split under another seed, never meet."""
        high = self.seed * len(_SPLIT_NUMBERS) + _SPLIT_NUMBERS[split]
        return (high << _ATTEMPT_BITS) + attempt

    def make(self, split: str) -> Any:
        """The environment that records a split.

        Raises:
            UserError: the environment, or one of its arguments, is not there.
        """
        splits = environments.named(self.environment).splits
        arguments = json.loads(self.env_args) | ({"split": splits[split]} if splits else {})
        try:
            return envs.make(self.environment, image_size=self.image_size, **arguments)
        except TypeError as error:
            raise errors.UserError(f"{self.environment} cannot be made so: {error}") from error


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise errors.UserError(f"env_args {text!r} is not JSON ({error})") from error
    taken = {"split", "image_size"} & set(found) if isinstance(found, dict) else {"it"}
    if taken:
        raise errors.UserError(f"env_args {text!r}: give a JSON object without split and image_size")
    return found


def declared(recipe: Recipe) -> dict[str, Any]:
    """What the environment says of its numbers (docs/environments.md), and steps a second.

    Returns:
        rate_hz; action_space: names, units, convention; proprio: parts (stored name -> its numbers' names), units.

    Raises:
        UserError: it says nothing of its action, or names for another number.
    """
    env = recipe.make("train")
    try:
        space = getattr(env, "action_space_description", None)
        proprio = getattr(env, "proprio_description", None)
        rate, size = env.metadata.get("render_fps"), env.action_space.shape[0]
        width = 0 if proprio else _proprio_width(env)
    finally:
        env.close()
    if space is None or rate is None or len(space["names"]) != size:
        raise errors.UserError(
            f"{recipe.environment}: declare metadata['render_fps'] and action_space_description with names for its "
            f"{size} numbers (docs/environments.md)"
        )
    unnamed = {"proprio": [str(i) for i in range(width)]} if width else {}
    proprio = proprio or {"parts": unnamed, "units": []}
    return {"rate_hz": rate, "action_space": dict(space), "proprio": dict(proprio)}


def _proprio_width(env: Any) -> int:
    """Numbers of `proprio` in an environment's observations, which may have none."""
    spaces = env.observation_space.spaces
    return spaces["proprio"].shape[0] if "proprio" in spaces else 0


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
            for episode in run(functools.partial(simulate, recipe, split), seeds):
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


def simulate(recipe: Recipe, split: str, seed: int) -> dict[str, Any]:
    """Plays one episode: observation t and the action taken in it, for each step t.

    Returns:
        images list[bytes] (PNG), proprio float32[T, P], actions float32[T, A], rewards float32[T],
        instruction, family, seed, success.
    """
    env, expert = _environment(recipe, split)
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    instruction, images, proprio, actions, rewards = observation["instruction"], [], [], [], []
    done = False
    while not done:
        action = np.asarray(expert.action(env, rng), np.float32)  # what is stored is what is done
        images.append(transforms.encode_png(observation["image"]))
        proprio.append(observation.get("proprio", ()))
        actions.append(action)
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        done = terminated or truncated
    return {
        "images": images,
        "proprio": np.asarray(proprio, np.float32),
        "actions": np.asarray(actions, np.float32),
        "rewards": np.asarray(rewards, np.float32),
        "instruction": instruction,
        "family": str(info["family"]),
        "seed": seed,
        "success": bool(info["success"]),
    }


@functools.lru_cache(maxsize=1)
def _environment(recipe: Recipe, split: str) -> tuple[Any, Any]:
    """One environment a process, kept for the episodes that follow."""
    return recipe.make(split), envs.expert(recipe.environment, recipe.expert_noise)


def columns(proprio: np.ndarray, parts: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """float32[T, P] cut into the parts that the environment declares: name -> float32[T, their number].

    Raises:
        UserError: they declare another number.
    """
    ends = np.cumsum([len(names) for names in parts.values()])
    if ends[-1] != proprio.shape[1]:
        raise errors.UserError(f"proprio has {proprio.shape[1]} numbers and {ends[-1]} names: {dict(parts)}")
    return dict(zip(parts, np.split(proprio, ends[:-1], axis=1), strict=True))


@contextlib.contextmanager
def _pool(num_workers: int) -> Iterator[Callable]:
    """An ordered, lazy `map`; spawned processes share no simulator or thread with this one."""
    if num_workers == 0:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(num_workers) as pool:
        yield pool.imap
