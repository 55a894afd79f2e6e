"""Writes toy robot datasets in which nothing is wrong, and in which one thing is."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lapa_jax.data.stored import writing
from lapa_jax.data.video import pictures

EPISODES, STEPS, SIDE = 12, 100, 16
NAME = "toy_robot"


@dataclasses.dataclass
class Robot:
    """Everything that a test may spoil: lists with one entry an episode.

    Attributes:
        action, proprio: float32[T, 4] and float32[T, 3]; the last action is a gripper, 0 or 1.
        image_primary, image_wrist: T JPEGs each.
        rate: steps a second; None leaves it out.
    """

    action: list[np.ndarray]
    proprio: list[np.ndarray]
    image_primary: list[list[bytes]]
    image_wrist: list[list[bytes]]
    instructions: list[str]
    rate: float | None = 5.0

    def cut(self, episode: int, steps: int) -> None:
        """Shortens one episode."""
        for rows in (self.action, self.proprio, self.image_primary, self.image_wrist):
            rows[episode] = rows[episode][:steps]


def robot(episodes: int = EPISODES, steps: int = STEPS) -> Robot:
    """One in which nothing is wrong."""
    rng = np.random.default_rng(0)
    move = rng.normal(0, [0.02, 0.01, 0.03], (episodes, steps, 3))
    hand = rng.random((episodes, steps, 1)) < 0.4
    action = np.concatenate([move, hand], axis=-1).astype(np.float32)
    return Robot(
        action=list(action),
        proprio=list(rng.normal(size=(episodes, steps, 3)).astype(np.float32)),
        image_primary=[_frames(0)[i * 7 : i * 7 + steps] for i in range(episodes)],
        image_wrist=[_frames(1)[i * 7 : i * 7 + steps] for i in range(episodes)],
        instructions=[("push the block", "open the drawer", "wipe the table")[i % 3] for i in range(episodes)],
    )


@functools.cache
def _frames(seed: int) -> list[bytes]:
    images = np.random.default_rng(seed).integers(0, 256, (300, SIDE, SIDE, 3), np.uint8)
    return [pictures.jpeg(image, 80) for image in images]


def flat(level: int) -> bytes:
    """A frame of one grey level."""
    return pictures.jpeg(np.full((SIDE, SIDE, 3), level, np.uint8), 80)


def write(folder: Path, toy: Robot, splits: Mapping[str, range] | None = None) -> Path:
    """Writes splits of it; None is all as "train", with the first two as "val" beside it."""
    splits = splits or {"train": range(len(toy.action)), "val": range(2)}
    folder = folder / NAME / "1.0.0"
    folder.mkdir(parents=True)
    images = {name: (SIDE, SIDE, 3) for name in ("image_primary", "image_wrist")}
    arrays = {name: getattr(toy, name)[0].shape[1:] for name in ("action", "proprio")}
    features = writing.episode_features(images, arrays, {})
    shards = {}
    for split, episodes in splits.items():
        path = writing.shard_path(folder, NAME, split, 0, 1)
        shards[split] = [writing.write_shard(path, features, (_example(toy, e) for e in episodes))]
    metadata = {"name": NAME} if toy.rate is None else {"name": NAME, "rate_hz": toy.rate}
    writing.finish(folder, features, shards, metadata)
    return folder


def _example(toy: Robot, episode: int) -> dict:
    images = {name: getattr(toy, name)[episode] for name in ("image_primary", "image_wrist")}
    arrays = {name: getattr(toy, name)[episode] for name in ("action", "proprio")}
    return writing.episode_example(images, arrays, toy.instructions[episode], {}, terminal=True)
