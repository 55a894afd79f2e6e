"""What the programs share that fill folders from every frame of a dataset: the folders, a bar, and the speed."""

import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tqdm

from lapa_jax import hosts, metrics
from lapa_jax.data import episodes, shards, sources


class Member(NamedTuple):
    """The episodes of one split of one dataset, its number in the mixture, and the folder that is theirs."""

    split: str
    number: int
    video: episodes.Episodes
    folder: pathlib.Path

    def __str__(self) -> str:
        return f"{self.video.name} {self.split}"


def members(data: Mapping[str, Any], splits: Sequence[str], root: str) -> Iterator[Member]:
    """All that a config's `data` names, in the video view.

    Raises:
        UserError: a dataset or split is missing.
    """
    for split in splits:
        mixture = sources.open_mixture(data, split, "video")
        for i, video in enumerate(mixture.members):
            yield Member(split, i, video, shards.folder(root, split, mixture, i))


def say(text: str) -> None:
    """A line on the console, of process 0."""
    if not hosts.number():
        print(text, flush=True)


class Progress(tqdm.tqdm):
    """A bar over all that is to be made of a member; its rate is that of what is made now."""

    def __init__(self, member: Member, total: int, unit: str):
        super().__init__(desc=str(member), total=total, unit=unit, mininterval=1)
        self.made, self.began = 0, time.perf_counter()

    def __call__(self, done: int, made: int) -> None:
        self.made += made
        self.initial += done - made  # those of an earlier call say nothing about speed
        self.update(done)

    def summarise(self, program: str, folder: pathlib.Path, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, with the speed if anything was made; that is said on the console too."""
        speed = {}
        if self.made:
            speed[f"{self.unit}s_per_second"] = rate = self.made / (time.perf_counter() - self.began)
            who = f" by process {hosts.number()}" if hosts.several() else ""
            print(f"[{program}] {self.made} {self.unit}s now{who}, {rate:.1f} {self.unit}s/s", flush=True)
        metrics.summarise(folder, {**summary, **speed})
