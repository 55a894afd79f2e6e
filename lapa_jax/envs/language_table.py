"""Language Table (github.com/google-research/language-table) as a gymnasium environment.

The package is on no registry: clone it and put it on PYTHONPATH (docs/other-simulators.md). Paths below are of its
repository.
"""

import importlib
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax.envs import adapters, checks
from lapa_jax.errors import UserError

INSTALL = (
    "clone github.com/google-research/language-table, put it on PYTHONPATH and `pip install gymnasium "
    "'gym<=0.23.0' pybullet scipy opencv-python-headless absl-py six tensorflow-cpu`"
)
gymnasium = adapters.require("gymnasium", "language_table", INSTALL)

ACTION_LIMIT = 0.1  # metres per control step, each component (language_table.py: action_space)
MAX_STEPS = 200  # eval/main.py
CAMERA = (180, 320)  # pixels (environments/constants.py)
WORKSPACE = ((0.15, -0.3048), (0.6, 0.3048))  # metres (environments/constants.py)
ATTEMPTS = 10  # at a board whose blocks find room; the simulator gives up by itself on crowded ones

REWARDS = {
    "blocktoblock": ("block2block", "BlockToBlockReward"),
    "blocktoabsolutelocation": ("block2absolutelocation", "BlockToAbsoluteLocationReward"),
    "blocktoblockrelativelocation": ("block2block_relative_location", "BlockToBlockRelativeLocationReward"),
    "blocktorelativelocation": ("block2relativelocation", "BlockToRelativeLocationReward"),
    "separate": ("separate_blocks", "SeparateBlocksReward"),
}
"""Family -> module and class below `environments/rewards`; the five tasks and names of eval/main.py."""


def make(**kwargs: Any) -> "LanguageTableEnv":
    """Builds a `LanguageTableEnv`; raises UserError where the package or one it needs is missing."""
    return LanguageTableEnv(**kwargs)


class LanguageTableEnv(adapters.Steps, gymnasium.Env):
    """Push blocks on a board as told, 10 Hz; reward 1 on success, which ends the episode.

    Observation: `image` uint8[180, 320, 3] (or [S, S, 3]) upright RGB, `instruction` str, `proprio` float32[2] the
    effector's (x, y) in metres (`effector_translation`, as in the datasets). Action: float32[2], the displacement
    of the effector's target in metres, clipped to +-0.1. `info` has `family`, `success` and `instruction`.

    Every episode has a simulator of its own, and its start draws from numpy's global generator as we seed it: the
    package's reset leaves joint motors where the last episode put them (a TODO in `_reset_poses_randomly`), and
    rewards/separate_blocks.py words its instructions by that generator. eval/main.py plays only boards for which
    the package's planner finds a way; here all are played.

    Args:
        families: the tasks to draw from, a subset of `REWARDS`.
        image_size: None gives the camera's own pixels, and a policy resizes them as in its training.
        block_mode: a member of `blocks.LanguageTableBlockVariants`; eval/main.py takes BLOCK_8.
        max_steps: an episode is truncated after this many steps.
        render_mode: None or "rgb_array"; `render()` returns the image either way.

    Raises UserError for an unknown family or block mode, a number below 1, or a missing package.
    """

    action_space_description = {
        "names": ["dx", "dy"],
        "units": "metres",
        "convention": "delta, effector's target, board's frame: +x is down in the image, +y right",
    }
    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "proprio": {"effector_translation": ["x", "y"]},
        "proprio_units": "metres",
    }

    def __init__(
        self,
        families: Sequence[str] = tuple(REWARDS),
        image_size: int | None = None,
        block_mode: str = "BLOCK_8",
        max_steps: int = MAX_STEPS,
        render_mode: str | None = None,
    ):
        checks.positive(image_size=1 if image_size is None else image_size, max_steps=max_steps)
        self.families = checks.families(families, tuple(REWARDS), "language_table")
        self.max_steps, self.image_size, self.render_mode = max_steps, image_size, render_mode
        self.num_steps, self._simulator, self._observation = 0, None, None
        self._family = self.families[0]
        self._package = adapters.require("language_table.environments.language_table", "language_table", INSTALL)
        self._blocks = _block_mode(block_mode)
        self._rewards = {family: _reward(family) for family in self.families}
        spaces = gymnasium.spaces
        self.action_space = spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, (2,), np.float32)
        low, high = np.float32(WORKSPACE[0]) - 0.1, np.float32(WORKSPACE[1]) + 0.1  # as language_table.py allows
        height, width = CAMERA if image_size is None else (image_size, image_size)
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (height, width, 3), np.uint8),
            instruction=spaces.Text(512, min_length=0, charset=string.printable),
            proprio=spaces.Box(low, high, dtype=np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode that `seed` determines entirely.

        Raises UserError where ten boards in a row had no room for their blocks.
        """
        super().reset(seed=seed)
        self._family = self.families[self.np_random.integers(len(self.families))]
        self.num_steps = 0
        for _ in range(ATTEMPTS):
            self.close()
            try:
                self._observation = self._look(self._begin(int(self.np_random.integers(1 << 32))))
                return self._observation, self._info(success=False)
            except ValueError as error:  # "Exceeded max attempts for generating block pose.", and its like
                reason = error
        raise UserError(f"Language Table found no board for {self._family} in {ATTEMPTS} tries: {reason}")

    def _begin(self, seed: int) -> dict[str, Any]:
        """A fresh simulator's first observation."""
        with adapters.numpy_seeded(seed):
            self._simulator = self._package.LanguageTable(
                block_mode=self._blocks, reward_factory=self._rewards[self._family], seed=seed
            )
            return self._simulator.reset()

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves the effector's target; raises UserError for an action that is not two finite numbers."""
        if self._simulator is None:
            raise UserError("Language Table has no episode yet: call reset() before step()")
        action = checks.action(action, 2, "metres along x and y")
        raw, _, done, _ = self._simulator.step(np.clip(action, -ACTION_LIMIT, ACTION_LIMIT))
        return self._stepped(raw, done)

    def close(self) -> None:
        """Disconnects the simulator."""
        if self._simulator is not None:
            self._simulator.pybullet_client.disconnect()
            self._simulator = None

    def _look(self, raw: dict[str, Any]) -> dict[str, Any]:
        return {
            "image": adapters.resized(np.asarray(raw["rgb"], np.uint8), self.image_size),
            "instruction": decode(raw["instruction"]),
            "proprio": np.asarray(raw["effector_translation"], np.float32),
        }

    def _info(self, success: bool) -> dict[str, Any]:
        return {"family": self._family, "success": success, "instruction": self._observation["instruction"]}


def decode(codes: np.ndarray) -> str:
    """int32[512] of UTF-8 bytes, padded with 0 -> text (language_table.py: encode_instruction)."""
    codes = np.asarray(codes)
    return bytes(codes[codes != 0].tolist()).decode("utf-8")


def _block_mode(name: str) -> Any:
    variants = importlib.import_module("language_table.environments.blocks").LanguageTableBlockVariants
    return variants[checks.choice(name, tuple(variants.__members__), "block mode")]


def _reward(family: str) -> Any:
    module, name = REWARDS[family]
    module = f"language_table.environments.rewards.{module}"
    return getattr(adapters.require(module, "language_table", INSTALL), name)
