"""MetaWorld as a gymnasium environment like the tabletop: look, read the instruction, move the hand."""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax.envs import checks, extras
from lapa_jax.envs.metaworld import cameras, language, simulator
from lapa_jax.errors import UserError

gymnasium = extras.require("gymnasium", "metaworld")

FAMILIES = tuple(language.WORDINGS)
CHARSET = string.ascii_lowercase + " "
HAND_LOW, HAND_HIGH = (-0.6, 0.3, -0.1), (0.6, 1.1, 0.8)  # metres, wider than the hand can go


class MetaworldEnv(gymnasium.Env):
    """Do one of several tasks as told. 20 Hz, reward 1 on success, which ends the episode.

    Observation: `image` uint8[S, S, 3], upright; `instruction` str; `proprio` float32[4], the hand's
    x, y, z in metres and the gripper's opening, 0 to 1. The goal is in no vector: it is to be seen.
    Action: float32[4] in +-1: where the hand's target moves (x, y, z; 1 is four centimetres in a
    step, the arm follows), and the effort of the gripper (-1 opens, +1 closes). `info` has `family`,
    `success` and `instruction`.

    Args:
        split: whose wordings instructions use: `video`, `labelled` or `heldout` (see `language.py`).
        families: the tasks to draw from, a subset of `FAMILIES`.
        image_size: side of the image in pixels.
        camera: a name in `cameras.CAMERAS`.
        max_steps: an episode is truncated after this many steps.
        render_mode: None or "rgb_array"; `render()` returns the image either way.

    Raises UserError for an unknown split, family or camera.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": simulator.PHYSICS_HZ // simulator.REPEAT}
    action_space_description = {
        "names": ["dx", "dy", "dz", "gripper_effort"],
        "units": ["4 cm", "4 cm", "4 cm", "effort"],
        "convention": "displacement of the hand's target in the robot's frame, per step of 0.05 s; effort of the "
        "gripper, -1 opens, +1 closes",
    }
    proprio_description = {
        "parts": {"effector_translation": ["x", "y", "z"], "gripper_opening": ["gripper_opening"]},
        "units": ["m", "m", "m", "0 closed, 1 open"],
    }

    def __init__(
        self,
        split: str = "video",
        families: Sequence[str] = FAMILIES,
        image_size: int = 64,
        camera: str = "near",
        max_steps: int = 60,
        render_mode: str | None = None,
    ):
        self._wordings = language.split_named(split)
        self._families = checks.families(families, FAMILIES, "metaworld")
        self._camera = cameras.CAMERAS[checks.choice(camera, tuple(cameras.CAMERAS), "metaworld camera")]
        checks.positive(image_size=image_size, max_steps=max_steps)
        self.render_mode = render_mode
        self.family: str | None = None
        self.num_steps = 0
        self._image_size, self._max_steps = image_size, max_steps
        self._instruction = ""
        self._simulators: dict[str, simulator.Simulator] = {}
        spaces = gymnasium.spaces
        low, high = (np.array([*hand, end], np.float32) for hand, end in ((HAND_LOW, 0), (HAND_HIGH, 1)))
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (image_size, image_size, 3), np.uint8),
            instruction=spaces.Text(128, charset=CHARSET),
            proprio=spaces.Box(low, high, dtype=np.float32),
        )

    @property
    def families(self) -> tuple[str, ...]:
        """The tasks this environment draws from."""
        return self._families

    @property
    def state(self) -> np.ndarray:
        """float64[39]: what MetaWorld's experts see, the goal included."""
        return self._now().state

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode that `seed` determines entirely."""
        super().reset(seed=seed)
        rng = self.np_random
        self.family = self._families[rng.integers(len(self._families))]
        wordings = self._wordings[self.family]
        self._instruction = wordings[rng.integers(len(wordings))]
        if self.family not in self._simulators:
            self._simulators[self.family] = simulator.Simulator(self.family, self._image_size, self._camera)
        self._now().reset(int(rng.integers(2**31)))
        self.num_steps = 0
        return self._observe(), self._info(success=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves the hand; raises UserError for an action that is not four finite numbers."""
        action = checks.action(action, 4, "x, y, z and gripper within +-1")
        success = self._now().step(np.clip(action, -1.0, 1.0))
        self.num_steps += 1
        truncated = self.num_steps >= self._max_steps and not success
        return self._observe(), float(success), success, truncated, self._info(success)

    def render(self) -> np.ndarray:
        """uint8[S, S, 3], the image of the current state."""
        return self._now().render()

    def close(self) -> None:
        """Frees the simulators; calling it again does nothing."""
        for one in self._simulators.values():
            one.close()
        self._simulators.clear()
        self.family = None

    def _now(self) -> simulator.Simulator:
        """The simulator of this episode."""
        if self.family is None:
            raise UserError("metaworld has no episode yet: call reset() first")
        return self._simulators[self.family]

    def _observe(self) -> dict[str, Any]:
        now = self._now()
        return {"image": now.render(), "instruction": self._instruction, "proprio": now.proprio}

    def _info(self, success: bool) -> dict[str, Any]:
        return {"family": self.family, "success": success, "instruction": self._instruction}
