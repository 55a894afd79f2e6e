"""Training images through a deployed server: does it answer as the policy here, and as well as in training?

A server may show its policy colours in another order, images resized another way, or undo another normalisation.
None of it raises, and all of it looks like a policy that has not learnt much.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import statistics, transforms
from lapa_jax.evaluation import sanity
from lapa_jax.evaluation.closed_loop import observations

MISTAKES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "red and blue change places": lambda image: image[..., ::-1],
    "images are upside down": lambda image: image[::-1],
    "images are mirrored": lambda image: image[:, ::-1],
    "images are turned by half a turn": lambda image: image[::-1, ::-1],
}
"""What is looked for when answers differ: shown images like that, the policy here answers as the server does."""

Infer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A step of an episode.

    Attributes:
        observation: as a robot would send it, images as they are stored.
        actions: float32[horizon, A] that were recorded from here on. mask: bool[horizon], False past the end.
        before: what a policy with a memory saw at its last look; None where there was none.
    """

    observation: Mapping[str, Any]
    actions: np.ndarray
    mask: np.ndarray
    before: Mapping[str, Any] | None = None


def samples(
    episodes: episodes_lib.Episodes,
    wanted: observations.Wanted,
    horizon: int,
    count: int,
    seed: int,
    history: int = 0,
) -> list[Sample]:
    """`count` different steps at random, or all if there are fewer.

    Args:
        history: steps from one look of the policy to the next, where it is told the latents of the last.

    Raises:
        UserError: the dataset lacks a camera or proprio that the policy wants.
    """
    steps = transforms.StepIndex(episodes.lengths)
    chosen = np.random.default_rng(seed).choice(len(steps), min(count, len(steps)), replace=False)
    found = []
    for i in sorted(chosen):
        episode, step = steps[int(i)]
        actions, mask = transforms.chunk(episodes["action"][episode], step, horizon)
        earlier = step - history if history else -1
        before = _seen(episodes, wanted, episode, earlier) if earlier >= 0 else None
        found.append(Sample(_seen(episodes, wanted, episode, step), actions, mask, before))
    return found


def _seen(
    episodes: episodes_lib.Episodes, wanted: observations.Wanted, episode: int, step: int
) -> dict[str, Any]:
    """The policy's `image` is the camera that it was trained with; others have the dataset's names."""
    seen: dict[str, Any] = {
        name: episodes.frame(episode, step, camera=None if name == "image" else name) for name in wanted.cameras
    }
    seen["instruction"] = episodes.instruction(episode)
    if wanted.proprio_dim is not None:
        seen["proprio"] = episodes["proprio"][episode][step]
    return observations.shown(seen, wanted)


def told(chosen: Sequence[Sample], local: Infer) -> list[Sample]:
    """Samples with the latents that the policy here plans at the look before, as `last_latents`."""

    def one(sample: Sample) -> Sample:
        if sample.before is None:
            return sample
        latents = np.asarray(local(sample.before)["latents"], np.int32)
        return dataclasses.replace(sample, observation={**sample.observation, "last_latents": latents})

    return [one(sample) for sample in chosen]


def answers(infer: Infer, chosen: Sequence[Sample], change: Callable | None = None) -> np.ndarray:
    """float32[N, horizon, A]: what is answered to each observation by itself, its images changed."""

    def seen(observation: Mapping[str, Any]) -> dict[str, Any]:
        images = {k: np.ascontiguousarray(change(v)) for k, v in observation.items() if change and np.ndim(v) == 3}
        return {**observation, **images}

    return np.stack([np.asarray(infer(seen(one.observation))["actions"], np.float32) for one in chosen])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All in units of the normalised actions.

    Attributes:
        difference: largest between the server and the policy here.
        error, local_error: mean squared, of the server and of the policy here, to the recorded actions.
        mean_error: of always answering the mean of the recorded actions.
        mistake: the one of `MISTAKES` that explains the difference; "" for none of them.
    """

    difference: float
    error: float
    local_error: float
    mean_error: float
    mistake: str = ""


def compare(
    server: Infer, local: Infer, chosen: Sequence[Sample], stats: statistics.Statistics, tolerance: float
) -> Comparison:
    """Asks both about each sample.

    Args:
        tolerance: a larger difference is looked into.
    """
    served, ours = (stats.normalise(answers(one, chosen)) for one in (server, local))
    recorded, mask = stats.normalise(np.stack([one.actions for one in chosen])), np.stack([c.mask for c in chosen])
    difference = _largest(served, ours)
    mistake = "" if difference <= tolerance else _mistake(served, local, chosen, stats, tolerance)
    mean = np.broadcast_to(recorded[mask].mean(0), recorded.shape)
    errors = (float(np.square(one - recorded)[mask].mean()) for one in (served, ours, mean))
    return Comparison(difference, *errors, mistake)


def _mistake(
    served: np.ndarray, local: Infer, chosen: Sequence[Sample], stats: statistics.Statistics, tolerance: float
) -> str:
    for name, change in MISTAKES.items():
        if _largest(served, stats.normalise(answers(local, chosen, change))) <= tolerance:
            return name
    return ""


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    apart = np.abs(a - b)
    return float(apart.max()) if np.isfinite(apart).all() else np.inf


def lines(
    found: Comparison, reference: float, same_checkpoint: bool | None, thresholds: Mapping[str, float]
) -> list[sanity.Line]:
    """What passes and what fails.

    Args:
        reference: the error of the run itself, in the same units.
        same_checkpoint: whether both are of one checkpoint; None: one of them does not say.
        thresholds: `difference`, `error_ratio`, `mean_ratio`.
    """
    why = f"it seems that in the server {found.mistake}" if found.mistake else "colours, resizing or normalisation"
    return [
        *_checkpoint(same_checkpoint),
        sanity.Line(
            "difference", f"actions are up to {found.difference:.2g} from those of the policy here",
            found.difference, thresholds["difference"],
            f"server and policy are not shown the same, or do not do the same: {why}",
        ),
        _ratio(
            "error_ratio", found.error, "the run's own", reference, thresholds,
            "the policy is shown other images than in training, or another dataset's",
        ),
        _ratio(
            "mean_ratio", found.error, "that of always answering the mean,", found.mean_error, thresholds,
            "the policy does no better than no policy: it is not trained, or its images tell it nothing",
        ),
    ]  # fmt: skip


def _checkpoint(same: bool | None) -> list[sanity.Line]:
    if same is None:
        return []
    says = "the server tells the same checkpoint" if same else "the server tells another checkpoint"
    hint = "give the folder of what is served as --config.policy"
    return [sanity.Line("checkpoint", says, float(same), 1.0, hint, at_most=False)]


def _ratio(
    name: str, error: float, of: str, other: float, thresholds: Mapping[str, float], hint: str
) -> sanity.Line:
    ratio = error / other if other > 0 else np.nan
    return sanity.Line(name, f"error {error:.4g} is {ratio:.2f} of {of} {other:.4g}", ratio, thresholds[name], hint)
