"""One call of a policy for several observations: stacked, filled up to a compiled size, checked, taken apart."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lapa_jax import errors
from lapa_jax.serving.failures import Failure

log = logging.getLogger(__name__)
Answer = dict[str, np.ndarray] | Failure


class Policy(Protocol):
    """What is served, see `lapa_jax.policy.Policy`; `infer` is called in one thread, never twice at a time."""

    metadata: Mapping[str, Any]

    def infer(self, observation: Mapping[str, Any], seed: int | None = None) -> Mapping[str, Any]: ...


class Calls:
    """Of one policy.

    Args:
        sizes: batches that are compiled, ascending; the last is the largest.

    Attributes:
        seconds: that a call of each size takes, once `warm_up` has measured it.
    """

    def __init__(self, policy: Policy, sizes: Sequence[int]) -> None:
        self.policy, self.sizes = policy, sizes
        self.seconds = dict.fromkeys(sizes, 1.0)
        self._shape = (int(policy.metadata["horizon"]), int(policy.metadata["action_dim"]))

    def warm_up(self, example: Callable[[int], Mapping[str, Any]]) -> None:
        """Compiles all that may be asked, and measures it.

        Args:
            example: batch -> an observation with so many rows.
        """
        for size in self.sizes:
            self.policy.infer(example(size))
            self.seconds[size] = min(_seconds(self.policy.infer, example(size)) for _ in range(2))
        self.policy.infer(example(1), seed=0)  # drawing is another program

    def share(self, waiting: int) -> int:
        """How many of so many requests the next call should answer: the number that is quickest for each.

        Where all sizes take as long, that is all of them. Where a call of 16 takes twice as long as one of 8, nine
        requests are better served by 8 and 1 than by 16 of which seven are thrown away.
        """
        upto = [size for size, before in zip(self.sizes, (0, *self.sizes), strict=False) if before < waiting]
        return min(waiting, max(reversed(upto), key=lambda size: min(waiting, size) / self.seconds[size]))

    def answers(self, observations: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """`actions` float32[horizon, A] and `latents` int32[N] of each, or why there are none.

        Args:
            observations: of `fields.Fields.of`, alike by `likeness`. When the policy refuses one, the others are
                asked again without it.
        """
        try:
            return self._together(observations)
        except Exception as error:  # noqa: BLE001 - whatever a policy does, its server goes on
            if len(observations) > 1:
                return [answer for one in observations for answer in self.answers([one])]
            return [_failure(error)]

    def _together(self, observations: Sequence[Mapping[str, Any]]) -> list[Answer]:
        size = next(size for size in self.sizes if size >= len(observations))
        rows = [*observations, *[observations[-1]] * (size - len(observations))]
        batch = {
            name: [row[name] for row in rows] if name == "instruction" else np.stack([row[name] for row in rows])
            for name in rows[0] if name != "seed"
        }  # fmt: skip
        seed = {"seed": rows[0]["seed"]} if "seed" in rows[0] else {}
        result = self.policy.infer(batch, **seed)
        return [self._row(result, i, size) for i in range(len(observations))]

    def _row(self, result: Mapping[str, Any], i: int, size: int) -> Answer:
        """Row `i`; a policy's numbers are passed on only when they are what its metadata promise."""
        actions = np.asarray(result["actions"])
        if actions.shape != (size, *self._shape):
            log.error("the policy gave actions %s, its metadata say %s", actions.shape, (size, *self._shape))
            return Failure("policy_failed", f"the policy gave actions {list(actions.shape)}: see the server's log")
        if not np.isfinite(actions[i]).all():
            return Failure("policy_failed", "the policy gave actions that are not finite; they were not sent")
        row = {"actions": actions[i].astype(np.float32)}
        return row if "latents" not in result else {**row, "latents": np.asarray(result["latents"])[i]}


def _seconds(call: Callable[[Any], Any], given: Any) -> float:
    begun = time.perf_counter()
    call(given)
    return time.perf_counter() - begun


def likeness(observation: Mapping[str, Any]) -> Any:
    """Observations of equal likeness can be one batch. One with a seed stands alone, or others would change it."""
    if "seed" in observation:
        return object()
    return tuple(sorted((name, np.shape(value)) for name, value in observation.items() if name != "instruction"))


def _failure(error: Exception) -> Failure:
    if isinstance(error, errors.UserError):  # among them what the policy's own check says
        return Failure("bad_observation", str(error))
    log.error("the policy failed", exc_info=error)
    return Failure("policy_failed", f"the policy failed with {type(error).__name__}: see the server's log")
