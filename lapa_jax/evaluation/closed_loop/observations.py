"""The one adapter between environments and policies: which part of an observation a policy is shown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a policy looks at, beside the instruction.

    Attributes:
        cameras: keys of images, in the environment's observation and in the policy's.
        proprio_dim: numbers of the vector `proprio`; None: the policy takes none.
    """

    cameras: tuple[str, ...] = ("image",)
    proprio_dim: int | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Wanted":
        """From `Policy.metadata`, or what a server sent in its place."""
        return cls(tuple(metadata["cameras"]), metadata["proprio_dim"])


def shown(observation: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """The part of an environment's observation that is wanted, checked.

    Returns:
        Images uint8[H, W, 3] under the names of their cameras, `instruction` str, and `proprio` float32[P].

    Raises:
        UserError: a key that is wanted is absent, or is something else than its name says.
    """
    found = {name: _image(name, _get(observation, name)) for name in wanted.cameras}
    found["instruction"] = str(_get(observation, "instruction"))
    if wanted.proprio_dim is not None:
        found["proprio"] = _proprio(_get(observation, "proprio"), wanted.proprio_dim)
    return found


def batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Observations of `shown` as one for `Policy.infer`: arrays [B, ...] and a list of B instructions."""
    names = [name for name in rows[0] if name != "instruction"]
    stacked = {name: np.stack([row[name] for row in rows]) for name in names}
    return stacked | {"instruction": [row["instruction"] for row in rows]}


def _get(observation: Mapping[str, Any], name: str) -> Any:
    if name not in observation:
        raise errors.UserError(
            f"the policy wants {name!r} and the environment shows {', '.join(observation)} only: choose another "
            f"policy, or have the environment's adapter add {name!r} to its observation"
        )
    return observation[name]


def _image(name: str, value: Any) -> np.ndarray:
    image = np.asarray(value)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise errors.UserError(f"{name} is {image.dtype}{list(image.shape)} in the environment, not uint8[H, W, 3]")
    return image


def _proprio(value: Any, size: int) -> np.ndarray:
    vector = np.asarray(value, np.float32)
    if vector.shape != (size,):
        raise errors.UserError(
            f"the policy wants proprio of {size} numbers, the environment's has shape {list(vector.shape)}"
        )
    return vector
