"""What differs between the environments that are recorded. Data only; the rest they say of themselves."""

import dataclasses
from collections.abc import Mapping

from lapa_jax import envs

SPLITS = ("train", "val", "labelled")
_WORDS = {"train": "video", "val": "video", "labelled": "labelled"}


@dataclasses.dataclass(frozen=True)
class Environment:
    """How one is recorded.

    Attributes:
        description: of the dataset.
        expert_noise: std of the expert's perturbation, in units of the action.
        splits: split of the dataset -> split of the environment; none for one that has no splits.
    """

    description: str
    expert_noise: float
    splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: _WORDS)


TABLE = {
    "tabletop": Environment(
        "A scripted expert pushes blocks on a simulated table as an instruction says.", expert_noise=0.006
    ),
    "metaworld": Environment(
        "MetaWorld's scripted experts do twelve tasks with a simulated Sawyer arm, each as an instruction says.",
        expert_noise=0.05,
    ),
}


def named(name: str) -> Environment:
    """The entry of `name`; of an environment that has none, a plain one without noise and without splits."""
    plain = Environment(f"The scripted expert of the environment {name} does as an instruction says.", 0.0, {})
    known = {envs.module_path(key): entry for key, entry in TABLE.items()}
    return known.get(envs.module_path(name), plain)
