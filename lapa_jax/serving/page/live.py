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

ARGUMENTS = {"tabletop": {"split": "heldout", "max_steps": 600}}
"""Of environments that a page drives: nothing that was trained on, and time to type."""

NO_LAQ = "No LAQ was given to the server. Start it with the folder of the LAQ that labelled the videos."


@dataclasses.dataclass(frozen=True)
class Limits:
    """
    Attributes:
        sessions: pages that are open at once.
        message_bytes: of one message of a page.
        instruction: characters.
        idle_seconds: without a press or a word from the person, after which a session ends.
        send_seconds: in which a page has to take a message.
    """

    sessions: int = 4
    message_bytes: int = 4096
    instruction: int = 400
    idle_seconds: float = 900.0
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
        arguments: of the environment; None: those in `ARGUMENTS`.
        proprio: the field of its observations that a policy with `proprio_dim` gets as "proprio".
        execute: actions carried out of each chunk before the next look; None: as many as the policy's `history`
            wants, else two where a chunk has them.
        ensemble: see `chunking.make`.
        first_seed: added to the seeds that a person gives. The default is where evaluation begins
            (`evaluation.rollouts.FIRST_SEED`), so that no scene of a dataset is shown.
        limits: see `Limits`.

    Raises:
        UserError: a chunk has less actions, or the policy wants to look again after another number of them.
    """

    infer: Infer
    metadata: Mapping[str, Any]
    imagine: Callable[[np.ndarray, np.ndarray], Imagined] | None = None
    no_imagination: str = NO_LAQ
    environment: str = "tabletop"
    arguments: Mapping[str, Any] | None = None
    proprio: str = "proprio"
    execute: int | None = None
    ensemble: float | None = None
    first_seed: int = 1 << 40
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        steps, horizon, history = self.steps, self.metadata["horizon"], self.metadata.get("history")
        if not 1 <= steps <= horizon:
            raise errors.UserError(f"execute={steps}: the policy gives {horizon} actions at once")
        if history and steps != history:
            raise errors.UserError(f"execute={steps}: the policy learned to look every {history} steps (history)")

    @property
    def steps(self) -> int:
        """From one look to the next."""
        if self.ensemble is not None:
            return 1
        usual = self.metadata.get("history") or min(2, self.metadata["horizon"])
        return usual if self.execute is None else self.execute

    @property
    def why_no_imagination(self) -> str | None:
        """None where there is one."""
        if not self.metadata.get("plans_latents", True):
            return f"This policy's head ({self.metadata.get('head')}) acts without planning latent tokens."
        return None if self.imagine else self.no_imagination

    def make_environment(self) -> Any:
        """Raises UserError: no such environment, or one that takes other actions than the policy gives."""
        given = ARGUMENTS.get(self.environment, {}) if self.arguments is None else self.arguments
        made = envs.make(self.environment, **given)
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
        return functools.partial(chunking.make, self.steps, self.ensemble)

    def observed(self, observation: Mapping[str, Any], instruction: str, latents: Any = None) -> dict[str, Any]:
        """What the policy is shown of an environment's observation.

        Args:
            latents: that it planned at its last look, `steps` ago; None for none.

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
        shown = {name: observation[field] for name, field in wanted.items()} | {"instruction": instruction}
        told = latents is not None and self.metadata.get("history")
        return shown | {"last_latents": np.asarray(latents, np.int32)} if told else shown

    def axes(self, environment: Any) -> list[dict[str, Any]]:
        """Name, unit and bounds of each dimension of an action; bounds are None where there are none."""
        count, bounds = self.metadata["action_dim"], environment.action_space
        space = self.space(environment)
        names, units = (_each(space.get(key), count) for key in ("names", "units"))
        return [
            {
                "name": names[i] or f"dim {i}",
                "unit": units[i] or "",
                "low": float(bounds.low[i]) if np.isfinite(bounds.low[i]) else None,
                "high": float(bounds.high[i]) if np.isfinite(bounds.high[i]) else None,
            }
            for i in range(count)
        ]

    def declared(self, environment: Any) -> str:
        """What else is declared of an action; also units that do not go one by one with the dimensions."""
        space = self.space(environment)
        said = {key: space.get(key) for key in ("units", "convention", "gripper", "note")}
        if any(_each(said["units"], self.metadata["action_dim"])):
            del said["units"]
        return "; ".join(f"{key}: {value}" for key, value in said.items() if value)

    def space(self, environment: Any) -> Mapping[str, Any]:
        """What the policy's dataset declares of an action, else what the environment does."""
        return self.metadata.get("action_space") or getattr(environment, "action_space_description", None) or {}


def _each(declared: Any, count: int) -> list[str | None]:
    """What was declared one by one ("m,m,rad" or a list) or for all in one word, one by one; else None."""
    found = declared.split(",") if isinstance(declared, str) else list(declared or [])
    if len(found) == 1 and not str(found[0]).strip().count(" "):
        found = found * count
    return [str(one).strip() for one in found] if len(found) == count else [None] * count
