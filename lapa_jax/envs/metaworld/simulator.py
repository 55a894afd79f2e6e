"""One task of MetaWorld: its physics, and images of it."""

from typing import Any

import numpy as np

from lapa_jax.envs import extras
from lapa_jax.envs.metaworld import cameras, gl, language

PHYSICS_HZ = 80  # control steps a second of MetaWorld itself
REPEAT = 4  # of them an action lasts: 20 Hz, an expert's episode is 10 to 30 steps
MARKER_RADIUS = 0.03  # metres; MetaWorld's own is a pixel or two
MARKER_COLOUR = (0.0, 0.8, 0.1, 1.0)  # MetaWorld has another for each task, which gives the task away


class Simulator:
    """Built when it is first needed; all of it follows from the seed of `reset`."""

    def __init__(self, task: str, image_size: int, camera: cameras.Camera):
        self._mujoco = gl.mujoco()
        tables = extras.require("metaworld.env_dict", "metaworld")
        sim = tables.ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        sim._partially_observable = False  # the expert is told the goal; no observation of ours holds it
        del sim.sawyer_observation_space  # cached, of when the goal was hidden
        sim._freeze_rand_vec, sim.seeded_rand_vec, sim._set_task_called = False, True, True
        sim.max_path_length = np.inf  # our environment counts
        self._sim, self._camera = sim, camera
        self._state = np.zeros(39)
        _mark(sim.model, task in language.MARKED)
        self._renderer = _renderer(self._mujoco, sim.model, image_size)
        self._view = _view(self._mujoco, camera)

    @property
    def state(self) -> np.ndarray:
        """float64[39] as MetaWorld's experts expect it, the goal in the last three."""
        return self._state

    @property
    def proprio(self) -> np.ndarray:
        """float32[4]: the hand's x, y, z in metres; the gripper's opening, 0 closed to 1 open."""
        return self._state[:4].astype(np.float32)

    def reset(self, seed: int) -> None:
        """Places the objects and the goal."""
        self._sim.seed(seed)
        self._sim.reset()
        self._mujoco.mj_forward(self._sim.model, self._sim.data)  # or bodies are seen where they were before
        now = self._sim._get_curr_obs_combined_no_goal()
        self._sim._prev_obs = now
        self._state = np.concatenate([now, now, self._sim._get_pos_goal()])

    def step(self, action: np.ndarray) -> bool:
        """Carries out float[4] within +-1 for `REPEAT` steps, or until the task is done; whether it is."""
        for _ in range(REPEAT):
            self._state, _, _, _, info = self._sim.step(action)
            if info["success"]:
                return True
        return False

    def render(self) -> np.ndarray:
        """uint8[image_size, image_size, 3]"""
        self._renderer.update_scene(self._sim.data, camera=self._view)
        return self._camera.upright(self._renderer.render())

    def close(self) -> None:
        self._renderer.close()


def _mark(model: Any, shown: bool) -> None:
    """One marker for all tasks: the site `goal`; others are not drawn."""
    for i in range(model.nsite):
        visible = shown and model.site(i).name == "goal"
        model.site_rgba[i] = MARKER_COLOUR if visible else (0.0, 0.0, 0.0, 0.0)
        if visible:
            model.site_size[i] = MARKER_RADIUS


def _renderer(mujoco: Any, model: Any, image_size: int) -> Any:
    """Without what takes most of the time: a shadow map of 4096 x 4096, and four samples a pixel."""
    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, image_size)
    model.vis.global_.offheight = max(model.vis.global_.offheight, image_size)
    try:
        renderer = mujoco.Renderer(model, image_size, image_size)
    except Exception as error:  # each backend raises its own
        raise gl.failed(error) from error
    gl.closed_at_exit(renderer)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    return renderer


def _view(mujoco: Any, camera: cameras.Camera) -> Any:
    if camera.name is not None:
        return camera.name
    view = mujoco.MjvCamera()
    view.type = mujoco.mjtCamera.mjCAMERA_FREE
    view.lookat[:] = camera.lookat
    view.distance, view.azimuth, view.elevation = camera.distance, camera.azimuth, camera.elevation
    return view
