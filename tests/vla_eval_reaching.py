"""A benchmark of vla-eval: its image says where to go, and it is done once the gripper closes there."""

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult


class Reaching(StepBenchmark):
    def __init__(self, send_state=False, send_wrist_image=False, quat_no_antipodal=False):
        super().__init__()
        assert send_state and send_wrist_image and quat_no_antipodal  # as the server asked in its HELLO

    def get_tasks(self):
        return [{"name": "reach"}]

    def reset(self, task):
        self.goal = 20 + 10 * task["episode_idx"]

    def step(self, action):
        there = abs(float(action["actions"][0]) - self.goal / 100) < 1e-6
        done = there and action["actions"][-1] > 0  # +1 closes
        return StepResult(obs=None, reward=float(done), done=done, info={})

    def make_obs(self, raw, task):
        images = {name: np.full((8, 8, 3), self.goal, np.uint8) for name in ("agentview", "wrist")}
        return {"images": images, "task_description": task["name"], "states": np.zeros(8)}

    def get_step_result(self, result):
        return {"success": result.done}

    def get_metadata(self):
        return {"max_steps": 5}
