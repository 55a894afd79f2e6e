"""An environment by name, and one episode of it. Worker processes get these, so nothing here may load jax."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax import envs, errors


@dataclasses.dataclass(frozen=True)
class World:
    """An environment that any process can make anew.

    Attributes:
        name: one that `lapa_jax.envs` knows.
        kwargs: of its `make`, beside `families`.
    """

    name: str
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, name: str, split: str = "", arguments: str = "", **more: Any) -> "World":
        """From what a config says.

        Args:
            split: is passed on unless it is empty.
            arguments: further ones of the environment, as a JSON object; empty: none.

        Raises:
            UserError: they are no JSON object.
        """
        try:
            given = json.loads(arguments or "{}")
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise errors.UserError(f"env_args={arguments}: give a JSON object, {{\"camera\": \"corner2\"}}")
        return cls(name, ({"split": split} if split else {}) | more | given)

    def make(self, *families: str) -> Any:
        """The environment for these task families; for all where none is named."""
        chosen = {"families": families} if families else {}
        return envs.make(self.name, **chosen, **self.kwargs)

    def expert(self) -> Any:
        """The scripted expert of the environment."""
        return envs.expert(self.name)

    def families(self, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The task families, all or the chosen ones.

        Raises:
            UserError: the environment has no such family.
        """
        probe = self.make()
        found = tuple(probe.unwrapped.families)
        probe.close()
        strange = [name for name in chosen if name not in found]
        if strange:
            raise errors.UserError(f"{self.name} has no family {strange[0]!r}; it has: {', '.join(found)}")
        return tuple(chosen) or found


@dataclasses.dataclass(frozen=True)
class Start:
    """What determines how an episode begins: its family and seed. `driver` is `policy` or a name of `drivers`."""

    family: str
    seed: int
    driver: str = "policy"

    def __str__(self) -> str:
        return f"family {self.family}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class View:
    """What a slot answers: the episode as it stands.

    Attributes:
        observation: what the policy is shown; None for scripted drivers and after the end.
        length: steps so far.
        seconds: since the episode began.
    """

    observation: dict[str, Any] | None
    instruction: str
    done: bool
    success: bool
    length: int
    seconds: float


def checked_action(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """
    Raises:
        UserError: it has another shape than the environment's actions.
    """
    action = np.asarray(action)
    if action.shape != shape:
        raise errors.UserError(f"the action has shape {list(action.shape)}, the environment takes {list(shape)}")
    return action
