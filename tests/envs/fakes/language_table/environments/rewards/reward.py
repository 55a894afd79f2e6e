"""As rewards/reward.py and its five subclasses: done and a goal reward once the effector is at the block."""

import numpy as np


class LanguageTableReward:
    wording = "push the {}"

    def __init__(self, goal_reward, rng, delay_reward_steps, block_mode):
        self._goal_reward, self._rng = goal_reward, rng

    def seed(self, rng):
        self._rng = rng

    def reset(self, state, blocks_on_table):
        return self.wording.format(self._rng.choice(["moon", "red moon", "red block"]))

    def reward(self, state):
        done = np.linalg.norm(state["effector_translation"] - state["block_red_moon_translation"]) < 0.02
        return (self._goal_reward, True) if done else (0.0, False)


class Separate(LanguageTableReward):
    def reset(self, state, blocks_on_table):  # separate_blocks.py draws its template from the global generator
        return np.random.choice(["pull the %s apart", "move the %s away", "separate the %s"]) % "moon"
