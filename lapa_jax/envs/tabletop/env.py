"""The tabletop as a gymnasium environment: look, read the instruction, move the effector."""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax.envs import checks, extras
from lapa_jax.envs.tabletop import language, scene, tasks
from lapa_jax.errors import UserError

gymnasium = extras.require("gymnasium", "tabletop")

ACTION_LIMIT = 0.03  # metres per control step, each component
CHARSET = string.ascii_lowercase + " "


class TabletopEnv(gymnasium.Env):
    """Push coloured blocks as told. 10 Hz, reward 1 on success, which ends the episode.

    Observation: `image` uint8[S, S, 3] from above (right is +x, up is +y), `instruction` str,
    `effector` float32[2] in metres, also as `proprio`, the name that policies know. Action: float32[2],
    (x, y) displacement of the effector in metres, clipped to +-0.03. `info` has `family`, `success` and
    `instruction`.

    Args:
        split: what instructions may name: `video`, `labelled` or `heldout` (see `language.py`).
        families: the task families to draw from, a subset of `tasks.FAMILIES`.
        image_size: side of the image in pixels.
        num_objects: blocks in the scene, each of another colour.
        max_steps: an episode is truncated after this many steps.
        render_mode: None or "rgb_array"; `render()` returns the image either way.

    Raises UserError for an unknown split or family, or a number of objects that cannot be had.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space_description = {
        "names": ["dx", "dy"],
        "units": ["m", "m"],
        "convention": "displacement of the effector in the table's frame, per step of 0.1 s: right and up",
    }
    proprio_description = {"parts": {"effector_translation": ["x", "y"]}, "units": ["m", "m"]}

    def __init__(
        self,
        split: str = "video",
        families: Sequence[str] = tasks.FAMILIES,
        image_size: int = 64,
        num_objects: int = 3,
        max_steps: int = 60,
        render_mode: str | None = None,
    ):
        _check_arguments(families, num_objects, image_size, max_steps)
        self.render_mode = render_mode
        self.task: tasks.Task | None = None
        self.num_steps = 0
        self._split = language.split_named(split)
        self._families = tuple(families)
        self._num_objects = num_objects
        self._max_steps = max_steps
        self._instruction = ""
        self._scene = scene.Scene(image_size)
        spaces = gymnasium.spaces
        self.action_space = spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, (2,), np.float32)
        limit = tasks.EFFECTOR_LIMIT + 0.01  # contact may push it off its course a little
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
            instruction=spaces.Text(128, charset=CHARSET),
            effector=spaces.Box(-limit, limit, (2,), np.float32),
            proprio=spaces.Box(-limit, limit, (2,), np.float32),
        )

    @property
    def families(self) -> tuple[str, ...]:
        """The task families this environment draws from."""
        return self._families

    @property
    def effector(self) -> np.ndarray:
        """float[2], metres."""
        return self._scene.effector()

    @property
    def blocks(self) -> np.ndarray:
        """float[N, 2], centres in metres; `task.target` and `task.reference` index it."""
        return self._scene.blocks()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode that `seed` determines entirely."""
        super().reset(seed=seed)
        rng = self.np_random
        family = self._families[rng.integers(len(self._families))]
        self.task = tasks.sample_task(rng, family)
        objects = self._sample_objects(rng)
        effector, blocks = tasks.sample_layout(rng, self.task, self._num_objects)
        self._scene.build(objects, blocks, rng.uniform(0, 2 * np.pi, len(objects)), effector)
        names = [" ".join(pair) for pair in objects]
        reference = None if self.task.reference is None else names[self.task.reference]
        self._instruction = language.instruct(
            rng, self._split.wordings[family], names[self.task.target], reference, self.task.place
        )
        self.num_steps = 0
        return self._observe(), self._info(success=False)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves the effector; raises UserError for an action that is not two finite numbers."""
        if self.task is None:
            raise UserError("the tabletop has no episode yet: call reset() before step()")
        action = checks.action(action, 2, "metres along x and y")
        self._scene.step(np.clip(action, -ACTION_LIMIT, ACTION_LIMIT))
        self.num_steps += 1
        success = tasks.succeeded(self.task, self.effector, self.blocks)
        truncated = self.num_steps >= self._max_steps and not success
        return self._observe(), float(success), success, truncated, self._info(success)

    def render(self) -> np.ndarray:
        """uint8[S, S, 3], the image of the current state."""
        return self._scene.render()

    def close(self) -> None:
        """Frees the simulator."""
        self._scene.close()

    def _sample_objects(self, rng: np.random.Generator) -> list[tuple[str, str]]:
        """(colour, shape) of each block; the ones that the instruction names come first."""
        num_named = 1 if self.task.reference is None else 2
        named = list(rng.permutation(self._split.colours)[:num_named])
        others = rng.permutation([name for name in language.COLOURS if name not in named])
        colours = named + list(others[: self._num_objects - num_named])
        shapes = rng.choice(language.SHAPES, self._num_objects)
        return [(str(colour), str(shape)) for colour, shape in zip(colours, shapes, strict=True)]

    def _observe(self) -> dict[str, Any]:
        effector = self.effector.astype(np.float32)
        return {
            "image": self._scene.render(),
            "instruction": self._instruction,
            "effector": effector,
            "proprio": effector.copy(),
        }

    def _info(self, success: bool) -> dict[str, Any]:
        family = self.task.family
        return {"family": family, "success": success, "instruction": self._instruction}


def _check_arguments(
    families: Sequence[str], num_objects: int, image_size: int, max_steps: int
) -> None:
    checks.families(families, tasks.FAMILIES, "tabletop")
    checks.positive(image_size=image_size, max_steps=max_steps)
    fewest = 2 if set(families) & set(tasks.FAMILIES_OF_TWO) else 1
    most = len(language.COLOURS)
    if not fewest <= num_objects <= most:
        raise UserError(
            f"num_objects={num_objects}: these families take {fewest} to {most} objects"
        )
