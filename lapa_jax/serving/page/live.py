"""What a live page is made with: a policy, an environment by name, and limits."""

import dataclasses
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np

from lapa_jax import chunking, envs, errors
from lapa_jax.serving.imagination import Imagined

Infer = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]
"""One observation -> "actions" float[horizon, A], and "latents" int[N] where the policy plans some."""

NO_LAQ = "No LAQ was given to the server. Start it with the folder of the LAQ that labelled the videos."


@dataclasses.dataclass(frozen=True)
class Limits:
    """
    Attributes:
        sessions: pages that are open at once.
        message_bytes: of one message of a page.
        instruction: characters.
        idle_seconds: without a press or a word from the person, after which a session ends.
        hello_seconds: in which a page has to say who it is.
        send_seconds: in which a page has to take a message.
    """

    sessions: int = 4
    message_bytes: int = 4096
    instruction: int = 400
    idle_seconds: float = 900.0
    hello_seconds: float = 10.0
    send_seconds: float = 20.0


@dataclasses.dataclass(frozen=True)
class Live:
    """
    Attributes:
        infer: the policy, awaited; several sessions call it at once. For a `Policy` without a server:
            `functools.partial(asyncio.to_thread, policy.infer)`.
        metadata: `Policy.metadata`.
        imagine: an `imagination.Imagination`, called in threads; None for none.
        no_imagination: why there is none, as a sentence.
        environment: a name of `envs.MODULES`.
        arguments: of the environment.
        proprio: the field of its observations that a policy with `proprio_dim` gets as "proprio".
        execute: actions carried out of each chunk before the next look.
        ensemble: see `chunking.make`.
        first_seed: added to the seeds that a person gives. The default is where evaluation begins
            (`evaluation.rollouts.FIRST_SEED`), so that no scene of a dataset is shown.
        token: what a page has to say to be let in; None for no such thing.
        origins: of pages elsewhere that may connect, as "https://example.org"; the server's own always may.
        limits: see `Limits`.
    """

    infer: Infer
    metadata: Mapping[str, Any]
    imagine: Callable[[np.ndarray, np.ndarray], Imagined] | None = None
    no_imagination: str = NO_LAQ
    environment: str = "tabletop"
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    proprio: str = "proprio"
    execute: int = 2
    ensemble: float | None = None
    first_seed: int = 1 << 40
    token: str | None = None
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()

    def make_environment(self) -> Any:
        """Raises UserError: no such environment, or one that takes other actions than the policy gives."""
        made = envs.make(self.environment, **self.arguments)
        takes, gives = made.action_space.shape, (self.metadata["action_dim"],)
        if takes != gives:
            made.close()
            raise errors.UserError(
                f"the policy gives {gives[0]} numbers an action and {self.environment} takes {takes}: "
                "serve a policy that was finetuned for this environment, or choose another environment"
            )
        return made

    @property
    def chunks(self) -> Callable[[], chunking.Chunking]:
        """Makes what says which actions of the chunks are carried out, one for each plan."""
        return functools.partial(chunking.make, self.execute, self.ensemble)

    def observed(self, observation: Mapping[str, Any], instruction: str) -> dict[str, Any]:
        """What the policy is shown of an environment's observation.

        Raises:
            UserError: the environment shows less than the policy wants.
        """
        wanted = {name: name for name in self.metadata.get("cameras") or ["image"]}
        if self.metadata.get("proprio_dim"):
            wanted["proprio"] = self.proprio
        if missing := [field for field in wanted.values() if field not in observation]:
            shown = ", ".join(observation) or "nothing"
            raise errors.UserError(
                f"the policy wants {missing[0]!r} and {self.environment} shows {shown}: choose another of the two"
            )
        return {name: observation[field] for name, field in wanted.items()} | {"instruction": instruction}

    def axes(self, environment: Any) -> list[dict[str, Any]]:
        """Name, unit and bounds of each dimension of an action; bounds are None where there are none.

        Names and units are those that the policy's dataset declares.
        """
        count, space = self.metadata["action_dim"], self.metadata.get("action_space") or {}
        names, units = _each(space.get("names"), count), _each(space.get("units"), count)
        bounds = environment.action_space
        return [
            {
                "name": str(names[i] or f"dimension {i}"),
                "unit": str(units[i] or ""),
                "low": float(bounds.low[i]) if np.isfinite(bounds.low[i]) else None,
                "high": float(bounds.high[i]) if np.isfinite(bounds.high[i]) else None,
            }
            for i in range(count)
        ]


def _each(declared: Any, count: int) -> list[Any]:
    """What was declared for all dimensions at once or one by one, one by one."""
    if declared is None or isinstance(declared, str):
        return [declared] * count
    if len(declared) != count:
        raise errors.UserError(
            f"action_space declares {list(declared)} and the policy gives {count} numbers: mend the declaration"
        )
    return list(declared)
