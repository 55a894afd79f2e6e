"""As libero/libero/envs/env_wrapper.py over robosuite: old step, images bottom row first, seed() is numpy's."""

import collections
import os

import numpy as np


class OffScreenRenderEnv:
    made = []

    def __init__(self, **kwargs):
        self.bddl_file_name = kwargs.pop("bddl_file_name")
        self.height, self.width = kwargs.pop("camera_heights", 128), kwargs.pop("camera_widths", 128)
        assert os.path.basename(self.bddl_file_name).endswith(".bddl"), f"[error] {self.bddl_file_name}"
        assert not kwargs, kwargs
        self.actions, self.resets, self.env = [], 0, object()
        OffScreenRenderEnv.made.append(self)

    def seed(self, seed):
        np.random.seed(seed)

    def reset(self):
        self.resets += 1
        self.scenery = np.random.randint(0, 200)  # what a fixed initial state does not fix
        self.set_init_state(np.zeros(3))
        return self._observation()

    def set_init_state(self, init_state):
        self.block = np.array(init_state, float)
        self.hand, self.fingers = np.array([0.0, 0.0, 0.3]), np.array([0.02, -0.02])
        return self._observation()

    def step(self, action):
        assert isinstance(action, list) and len(action) == 7
        self.actions.append(action)
        self.hand = self.hand + 0.05 * np.clip(action[:3], -1, 1)
        self.fingers = np.clip(self.fingers - 0.005 * np.sign(action[6]) * np.array([1, -1]), -0.04, 0.04)
        self.block[2] = max(0.0, self.block[2] - 0.01)
        done = bool(np.linalg.norm(self.hand[:2] - self.block[:2]) < 0.05 and self.fingers[0] < 0.01)
        return self._observation(), float(done), done, {}

    def close(self):
        del self.env

    def _observation(self):
        image = np.full((self.height, self.width, 3), self.scenery, np.uint8)
        image[-1, -1] = (255, 0, 0)
        wrist = np.zeros_like(image)
        wrist[-1, 0] = (0, 255, 0)
        return collections.OrderedDict(
            robot0_eef_pos=self.hand.copy(),
            robot0_eef_quat=np.array([1.0, 0.0, 0.0, 0.0]),
            robot0_gripper_qpos=self.fingers.copy(),
            agentview_image=image,
            robot0_eye_in_hand_image=wrist,
        )
