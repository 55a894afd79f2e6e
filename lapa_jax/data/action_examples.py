"""Examples of stage 3: frames, an instruction, what else a policy is told, and the actions that follow."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import action_bins, latent_examples, layouts, statistics, transforms
from lapa_jax.data import augment as augment_lib
from lapa_jax.data import encoded as encoded_lib
from lapa_jax.data import episodes as episodes_lib


@dataclasses.dataclass(frozen=True)
class Beside:
    """What an example has beside the frame of the main camera, its prompt and the actions.

    Attributes:
        cameras: more of them; image is then uint8[1 + len(cameras), H, W, 3].
        proprio: statistics of the array "proprio", which is added normalised, float32[P].
        bins: actions are added as their ids, too: action_ids int32[horizon, A].
        before: steps to an earlier frame, last_image, with last_known bool[]; 0: none.
    """

    cameras: tuple[str, ...] = ()
    proprio: statistics.Statistics | None = None
    bins: action_bins.ActionBins | None = None
    before: int = 0

    @property
    def identity(self) -> tuple[Any, ...]:
        """All that examples hang on."""
        return self.cameras, self.proprio is not None, self.bins is not None, self.before


@dataclasses.dataclass(frozen=True)
class Examples:
    """(episode, step), generator -> an example of `loader.action_stream`; its docstring says what is in it."""

    episodes: episodes_lib.Episodes
    layout: layouts.Layout
    statistics: statistics.Statistics
    horizon: int
    image_size: int | None
    resize: str
    augment: augment_lib.Augment
    window: int = 1
    beside: Beside = Beside()

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise errors.UserError(f"horizon {self.horizon} holds no action; use 1 or more")
        if self.window < 1:
            raise errors.UserError(f"window {self.window} holds no frame; use 1 or more")
        if self.window > 1 and (self.beside.cameras or self.beside.before):
            raise errors.UserError("a window of frames goes with one camera and without earlier latents")
        if self.beside.before < 0:
            raise errors.UserError(f"an earlier frame {self.beside.before} steps before: use 1 or more, 0 for none")
        for camera in self.beside.cameras:
            if camera not in self.episodes.cameras:
                there = ", ".join(self.episodes.cameras)
                raise errors.UserError(f"{self.episodes.name}: no camera {camera!r}; it has {there}")
        for array in ("action", *(("proprio",) if self.beside.proprio is not None else ())):
            self.episodes[array]  # noqa: B018  an error now, and not in a worker
        self._prompt  # noqa: B018

    @functools.cached_property
    def _prompt(self) -> Callable[[int], dict[str, np.ndarray]]:
        return latent_examples.of_each(self.episodes, self.layout.prompt)

    def __call__(self, at: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        episode, t = at
        actions, mask = transforms.chunk(self.episodes["action"][episode], t, self.horizon)
        change = self.augment.draw(rng)
        return {
            **self._frames(episode, t, change),
            **self._told(episode, t, change),
            **self._prompt(episode),
            "actions": self.statistics.normalise(actions),
            "action_mask": mask,
            **({} if self.beside.bins is None else {"action_ids": self.beside.bins.encode(actions)}),
        }

    def _frames(self, episode: int, t: int, change: Callable) -> dict[str, np.ndarray]:
        if self.window == 1:
            return {"image": self._look(episode, t, change)}
        steps, seen = transforms.window(t, self.window)
        return {"image": np.stack([self._look(episode, int(s), change) for s in steps]), "window_mask": seen}

    def _told(self, episode: int, t: int, change: Callable) -> dict[str, np.ndarray]:
        told: dict[str, Any] = {}
        if self.beside.proprio is not None:
            told["proprio"] = self.beside.proprio.normalise(self.episodes["proprio"][episode][t])
        if self.beside.before:
            earlier = t - self.beside.before
            told["last_image"] = self._look(episode, max(earlier, 0), change)
            told["last_known"] = np.bool_(earlier >= 0)
        return told

    def _look(self, episode: int, step: int, change: Callable) -> np.ndarray:
        """uint8[H, W, 3], or of several cameras uint8[E, H, W, 3]."""
        names = (None, *self.beside.cameras)
        read = functools.partial(encoded_lib.read_frame, self.episodes, episode, step, self.image_size, self.resize)
        frames = [change(read(camera=name)) for name in names]
        return np.stack(frames) if self.beside.cameras else frames[0]
