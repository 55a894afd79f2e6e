"""A dataset's own actions, carried out again where they were recorded: do they still lead where they led?

The first thing to run when a policy that fits its data does nothing sensible in the environment. Actions of another
convention, rate or frame, another version of the simulator, or an episode that begins elsewhere show up here, with
no network in between.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import transforms
from lapa_jax.evaluation import sanity
from lapa_jax.evaluation.closed_loop import worlds
from lapa_jax.evaluation.recordings import Recording

_NARROW = 1e-3
"""A number of the state that varies less than this share of the widest one is measured by that share."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """What became of one episode.

    Attributes:
        began: whether its beginning (family, instruction) was that of the recording.
        success: at its end; `recorded` is what the recording says.
        steps: that were carried out, of `length` recorded ones.
        drift: state -> largest distance from the recorded one over the episode, float[D], in the state's units.
        image_drift: largest mean distance of an image from the recorded one, of all grey levels.
    """

    number: int
    family: str
    seed: int
    began: bool
    success: bool
    recorded: bool
    steps: int
    length: int
    drift: Mapping[str, np.ndarray]
    image_drift: float


class Stage:
    """Begins recorded episodes again. A context manager.

    A recorder may have made the environment with all its families or with one; both are tried, since with the
    same seed they begin differently.
    """

    def __init__(self, world: worlds.World) -> None:
        self._world = world
        self._made: dict[tuple[str, ...], Any] = {}

    def begin(self, recording: Recording) -> tuple[Any, Mapping[str, Any]] | None:
        """(environment, first observation); None where the episode cannot begin as it began."""
        for families in ((), (recording.family,)):
            if families not in self._made:
                self._made[families] = self._world.make(*families)
            env = self._made[families]
            observation, info = env.reset(seed=recording.seed)
            same = info.get("family", recording.family) == recording.family
            if same and str(observation["instruction"]) == recording.instruction:
                return env, observation
        return None

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        for env in self._made.values():
            env.close()


def replay(stage: Stage, recording: Recording) -> Replay:
    """Carries out the recorded actions one after the other, until the environment says that the episode is over.

    Raises:
        UserError: the actions are not such as the environment takes.
    """
    about = (recording.number, recording.family, recording.seed)
    length, begun = len(recording.actions), stage.begin(recording)
    if begun is None:
        return Replay(*about, False, False, recording.success, 0, length, {}, np.inf)
    env, observation = begun
    names = [name for name, rows in recording.states.items() if _alike(observation.get(name), rows)]
    drift = {name: np.zeros(recording.states[name].shape[1]) for name in names}
    image_drift, success, steps = 0.0, False, 0
    for action in recording.actions:
        for name in names:
            apart = np.abs(np.asarray(observation[name], np.float64) - recording.states[name][steps])
            drift[name] = np.maximum(drift[name], np.where(np.isfinite(apart), apart, np.inf))
        image_drift = max(image_drift, _image_drift(observation["image"], recording.image(steps)))
        try:
            observation, _, terminated, truncated, info = env.step(
                worlds.checked_action(action, env.action_space.shape)
            )
        except errors.UserError as error:
            raise errors.UserError(f"episode {recording.number}, step {steps}: {error}") from error
        steps, success = steps + 1, bool(info["success"])
        if terminated or truncated:
            break
    return Replay(*about, True, success, recording.success, steps, length, drift, image_drift)


def scales(recordings: Iterable[Recording]) -> dict[str, np.ndarray]:
    """state -> standard deviation of each of its numbers over the recordings, float[D], never 0."""
    rows: dict[str, list[np.ndarray]] = {}
    for recording in recordings:
        for name, values in recording.states.items():
            if values.ndim == 2:
                rows.setdefault(name, []).append(values)
    found = {}
    for name, values in rows.items():
        std = np.concatenate(values).astype(np.float64).std(0)
        found[name] = np.maximum(std, max(_NARROW * std.max(initial=0.0), 1e-9))
    return found


def state_drift(replays: Sequence[Replay], scale: Mapping[str, np.ndarray]) -> dict[str, float]:
    """state -> largest drift of any of its numbers in any episode, in its standard deviations."""
    names = {name: None for one in replays for name in one.drift}
    return {
        name: max(float((one.drift[name] / scale[name]).max()) for one in replays if name in one.drift)
        for name in names
    }


def lines(
    replays: Sequence[Replay], scale: Mapping[str, np.ndarray], thresholds: Mapping[str, float]
) -> list[sanity.Line]:
    """What passes and what fails; `thresholds` has `began`, `success`, `state_drift` and `image_drift`."""
    began, meant = [one for one in replays if one.began], [one for one in replays if one.recorded]
    again, share = sum(one.success for one in meant), len(began) / len(replays)
    found = [
        sanity.Line(
            "began", f"{len(began)} of {len(replays)} episodes begin as recorded", share, thresholds["began"],
            "the environment is made otherwise than for the recording (env_split), or is of another version",
            at_most=False,
        ),
        sanity.Line(
            "success", f"{again} of {len(meant)} episodes that succeeded do so again",
            again / len(meant) if meant else np.nan, thresholds["success"],
            "the actions are of another convention (absolute or delta, frame, gripper), rate or unit",
            at_most=False,
        ),
    ]  # fmt: skip
    return found + (_drift_lines(began, scale, thresholds) if began else [])


def _drift_lines(
    began: Sequence[Replay], scale: Mapping[str, np.ndarray], thresholds: Mapping[str, float]
) -> list[sanity.Line]:
    found, drift = [], state_drift(began, scale)
    if drift:
        told = ", ".join(f"{name} {value:.3g}" for name, value in drift.items())
        found.append(
            sanity.Line(
                "state_drift", f"states are up to so many standard deviations apart: {told}", max(drift.values()),
                thresholds["state_drift"], "the same actions lead elsewhere: the simulator or its physics differ",
            )
        )  # fmt: skip
    else:
        says = "no state is in both the recording and the environment: images alone were compared"
        found.append(sanity.Line("state_drift", says, 0.0, thresholds["state_drift"], ""))
    images = max(one.image_drift for one in began)
    found.append(
        sanity.Line(
            "image_drift", f"images are up to {images:.4f} of all grey levels apart", images,
            thresholds["image_drift"], "another camera or renderer, colours in another order, or it went elsewhere",
        )
    )  # fmt: skip
    return found


def _alike(value: Any, rows: np.ndarray) -> bool:
    """Whether an environment shows a state of the recording's shape."""
    return value is not None and rows.ndim == 2 and np.shape(value) == rows.shape[1:]


def _image_drift(image: np.ndarray, recorded: np.ndarray) -> float:
    image = np.asarray(image)
    if image.shape != recorded.shape:
        image = transforms.resize(image, recorded.shape[0])
    if image.shape != recorded.shape:
        return np.inf
    return float(np.abs(image.astype(np.float64) - recorded).mean() / 255)
