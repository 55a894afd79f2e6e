"""The demo in each environment: how much is recorded there, and where its configs differ from what a size says."""

import dataclasses
from collections.abc import Mapping

Changes = Mapping[str, Mapping[str, object]]
"""Folder of a stage -> {dotted key of its config: value}."""


@dataclasses.dataclass(frozen=True)
class World:
    """One environment.

    Attributes:
        package: whose version the run notes.
        episodes: size -> unlabelled, held-out and labelled episodes that the expert records.
        changes: of every size.
        sized: size -> further changes.
    """

    package: str
    episodes: Mapping[str, Mapping[str, int]]
    changes: Changes = dataclasses.field(default_factory=dict)
    sized: Mapping[str, Changes] = dataclasses.field(default_factory=dict)

    def flags(self, stage: str, size: str) -> list[str]:
        """The changes of a stage, as its program takes them."""
        changes = {**self.changes.get(stage, {}), **self.sized.get(size, {}).get(stage, {})}
        return [f"--config.{key}={value}" for key, value in changes.items()]


TABLETOP = World(
    "pybullet",
    {
        "full": dict(train=6000, val=150, labelled=60),
        "demo": dict(train=3000, val=100, labelled=60),
        "tiny": dict(train=6, val=4, labelled=4),
    },
)

# Ten labelled episodes a task to train on, of twelve; what is learnt from them is finer than to push a block.
_POLICY = {"data.episodes": 120, "num_steps": 1000, "data.proprio": True}
METAWORLD = World(
    "metaworld",
    {
        "full": dict(train=3600, val=144, labelled=144),
        "demo": dict(train=1200, val=96, labelled=144),
        "tiny": dict(train=6, val=4, labelled=4),
    },
    {
        # Four steps, in which the hand moves some eight pixels, in three dimensions: one of 8 codes says too little
        # of that (R2 of motion 0.36, 0.57 with two).
        "laq": {"data.gap": 0.2, "model.code_length": 2},
        "evaluation": {"env": "metaworld"},
    },
    {size: {"finetune": _POLICY, "scratch": _POLICY} for size in ("full", "demo")},
)

WORLDS = {"tabletop": TABLETOP, "metaworld": METAWORLD}
