"""LIBERO (github.com/Lifelong-Robot-Learning/LIBERO) as a gymnasium environment.

Conventions are those of OpenVLA's and openpi's evaluations (openvla: experiments/robot/libero/run_libero_eval.py,
openpi: examples/libero/main.py), so that numbers can be compared: images turned by 180 degrees, ten steps of doing
nothing first, fixed initial states, longest episodes by suite, eight numbers of proprioception.
"""

import importlib.util
import json
import os
import pathlib
import pickle
import string
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from lapa_jax.envs import adapters, checks
from lapa_jax.errors import UserError

INSTALL = "run `pip install hf-libero gymnasium` (Linux; what else it takes: docs/other-simulators.md)"
gymnasium = adapters.require("gymnasium", "libero", INSTALL)

SUITES = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Suite -> longest episode in steps, a little above its longest demonstration (both evaluations named above)."""

SETTLE_STEPS = 10  # objects fall into place meanwhile
NOTHING = (0.0,) * 6 + (-1.0,)  # no movement, gripper opening
SIMULATOR_SEED = 0  # OpenVLA's; openpi notes that it moves objects although the initial state is fixed

GRIPPERS = {
    "close_positive": ((-1.0, 1.0), lambda g: g, "gripper -1 opens, +1 closes"),
    "open_01": ((0.0, 1.0), lambda g: 1.0 - 2.0 * g, "gripper 1 opens, 0 closes"),
}
"""Convention -> range, map to LIBERO's own (robosuite: panda_gripper.py, format_action), and words.

`close_positive` is LIBERO's own and that of its demonstrations; `open_01` that of OpenVLA's RLDS copies.
"""

CAMERAS = {"image": "agentview_image", "image_wrist": "robot0_eye_in_hand_image"}


def make(**kwargs: Any) -> "LiberoEnv":
    """Builds a `LiberoEnv`; raises UserError where LIBERO or a package it needs is missing."""
    return LiberoEnv(**kwargs)


class LiberoEnv(adapters.Steps, gymnasium.Env):
    """A Panda arm at a table, 20 Hz; reward 1 on success, which ends the episode.

    Observation: `image` and `image_wrist` uint8[S, S, 3] RGB, turned by 180 degrees from what LIBERO gives, which
    is bottom row first; so they stand upright and are mirrored, left for right, as in the public datasets.
    `instruction` str. `proprio` float32[8]: gripper position in metres (3), its orientation as axis-angle in
    radians (3), two finger positions in metres. Action: float32[7] within +-1, see `action_space_description`.
    `info` has `family`, `success`, `instruction` and `initial_state`.

    Args:
        split: the suite, a name in `SUITES`.
        families: names of the suite's tasks to draw from; None: all.
        image_size: side of the rendered images in pixels; 256 is what public datasets have.
        gripper: convention of the action's last number, a name in `GRIPPERS`.
        max_steps: an episode is truncated after this many steps; None: the suite's.
        render_mode: None or "rgb_array"; `render()` returns the image either way.

    Raises UserError for an unknown split, family or gripper, a number below 1, or a missing package.
    """

    action_space_description = {
        "names": ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"],
        "units": "dx to dz: 5 cm; drx to drz: 0.5 rad",
        "convention": "delta, gripper, world frame, rotation as axis-angle",
    }
    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 20,
        "proprio": {
            "eef_pos": ["x", "y", "z"], "eef_axis_angle": ["rx", "ry", "rz"], "gripper_qpos": ["left", "right"],
        },
        "proprio_units": "metres, radians",
    }
    """Of actions: OSC_POSE of robosuite 1.4 (controllers/config/osc_pose.json, utils/control_utils.py)."""

    def __init__(
        self,
        split: str = "libero_spatial",
        families: Sequence[str] | None = None,
        image_size: int = 256,
        gripper: str = "close_positive",
        max_steps: int | None = None,
        render_mode: str | None = None,
    ):
        longest = SUITES[checks.choice(split, tuple(SUITES), "LIBERO suite")]
        checks.choice(gripper, tuple(GRIPPERS), "gripper convention")
        (low, high), self._to_gripper, words = GRIPPERS[gripper]
        self.max_steps = longest if max_steps is None else max_steps
        checks.positive(image_size=image_size, max_steps=self.max_steps)
        self.image_size, self.render_mode = image_size, render_mode
        self._benchmark = _suite(split)
        self._tasks = dict(zip(self._benchmark.get_task_names(), range(self._benchmark.n_tasks), strict=True))
        self.families = checks.families(tuple(self._tasks) if families is None else families, self._tasks, split)
        self.num_steps, self._observation, self._family, self._state = 0, None, self.families[0], 0
        self._simulator, self._simulated = None, None
        said = {**self.action_space_description, "gripper": gripper}
        self.action_space_description = {**said, "convention": f"{said['convention']}; {words}"}
        self.action_space = gymnasium.spaces.Box(
            np.float32([-1] * 6 + [low]), np.float32([1] * 6 + [high]), dtype=np.float32
        )
        self.observation_space = _observation_space(image_size)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode that `seed` determines entirely.

        The initial state is number `seed` modulo their number (50), so consecutive seeds use each as often.
        """
        super().reset(seed=seed)
        self._family = self.families[self.np_random.integers(len(self.families))]
        drawn = int(self.np_random.integers(1 << 31))
        states = _initial_states(self._benchmark, self._tasks[self._family])
        self._state = (drawn if seed is None else seed) % len(states)
        self.num_steps = 0
        with adapters.numpy_seeded(SIMULATOR_SEED):
            self._observation = self._look(self._begin(states[self._state]))
        return self._observation, self._info(success=False)

    def _begin(self, state: np.ndarray) -> dict[str, np.ndarray]:
        """What is seen once the objects of an initial state have settled."""
        if self._simulated != self._family:
            self.close()
            self._simulator = _simulator(self._benchmark, self._tasks[self._family], self.image_size)
            self._simulated = self._family
        self._simulator.seed(SIMULATOR_SEED)  # before each reset, which draws; so no episode hangs on the last
        self._simulator.reset()
        raw = self._simulator.set_init_state(state)
        for _ in range(SETTLE_STEPS):
            raw = self._simulator.step(list(NOTHING))[0]
        return raw

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Moves the arm; raises UserError for an action that is not seven finite numbers."""
        if self._simulator is None:
            raise UserError("LIBERO has no episode yet: call reset() before step()")
        command = checks.action(action, 7, "dx, dy, dz, drx, dry, drz and gripper")
        command = np.clip(command, self.action_space.low, self.action_space.high).astype(np.float64)
        command[-1] = self._to_gripper(command[-1])
        raw, _, done, _ = self._simulator.step(command.tolist())
        return self._stepped(raw, done)

    def close(self) -> None:
        """Frees the simulator."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = self._simulated = None

    def _look(self, raw: dict[str, np.ndarray]) -> dict[str, Any]:
        images = {ours: np.ascontiguousarray(raw[theirs][::-1, ::-1]) for ours, theirs in CAMERAS.items()}
        hand = [raw["robot0_eef_pos"], axis_angle(raw["robot0_eef_quat"]), raw["robot0_gripper_qpos"]]
        return {
            **images,
            "instruction": self._benchmark.get_task(self._tasks[self._family]).language,
            "proprio": np.concatenate(hand).astype(np.float32),
        }

    def _info(self, success: bool) -> dict[str, Any]:
        instruction = self._observation["instruction"]
        return {
            "family": self._family, "success": success, "instruction": instruction, "initial_state": self._state,
        }


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """float[4] (x, y, z, w) -> float[3] in radians, of length up to 2 pi.

    As in the datasets: a quaternion of negative w is not turned round first (robosuite 1.4: quat2axisangle).
    """
    w = np.clip(quaternion[3], -1.0, 1.0)
    sine = np.sqrt(1.0 - w * w)
    if sine == 0.0:
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * 2.0 * np.arccos(w) / sine


def configure() -> pathlib.Path:
    """LIBERO's config file, written with its own defaults where there is none; its import would ask on stdin.

    The folder is $LIBERO_CONFIG_PATH or ~/.libero, as LIBERO says (libero/libero/__init__.py). Raises UserError
    where LIBERO is not installed, or the folder cannot be written.
    """
    file = pathlib.Path(os.environ.get("LIBERO_CONFIG_PATH", "~/.libero")).expanduser() / "config.yaml"
    if file.exists():
        return file
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the libero environment cannot import libero: {INSTALL}")
    root = pathlib.Path(list(spec.submodule_search_locations)[0]) / "libero"
    folders = {
        "benchmark_root": root, "bddl_files": root / "bddl_files", "init_states": root / "init_files",
        "datasets": root.parent / "datasets", "assets": root / "assets",
    }
    try:
        _write(file, json.dumps({name: str(path) for name, path in folders.items()}))  # JSON is YAML
    except OSError as error:
        raise UserError(f"LIBERO's config goes to {file} ({error}): set LIBERO_CONFIG_PATH elsewhere") from error
    return file


def _write(file: pathlib.Path, text: str) -> None:
    """All at once: several processes may come by."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
        new.write(text)
    os.replace(new.name, file)


def _suite(name: str) -> Any:
    configure()
    return adapters.require("libero.libero.benchmark", "libero", INSTALL).get_benchmark_dict()[name]()


def _initial_states(suite: Any, index: int) -> np.ndarray:
    """float[50, ...], one flattened simulator state a row."""
    try:
        return suite.get_task_init_states(index)
    except pickle.UnpicklingError as error:  # LIBERO's own loader under torch>=2.6, which trusts no pickle
        raise UserError("torch refuses LIBERO's initial states: install hf-libero, or torch<2.6") from error


def _simulator(suite: Any, index: int, image_size: int) -> Any:
    envs = adapters.require("libero.libero.envs", "libero", INSTALL)
    return envs.OffScreenRenderEnv(
        bddl_file_name=suite.get_task_bddl_file_path(index), camera_heights=image_size, camera_widths=image_size
    )


def _observation_space(image_size: int) -> Any:
    spaces = gymnasium.spaces
    images = {name: spaces.Box(0, 255, (image_size, image_size, 3), np.uint8) for name in CAMERAS}
    return spaces.Dict(
        **images,
        instruction=spaces.Text(512, min_length=0, charset=string.printable),
        proprio=spaces.Box(-np.inf, np.inf, (8,), np.float32),
    )
