"""As environments/language_table.py: the old gym face, a reset in the constructor, motors that reset forgets."""

import collections

import numpy as np

LOW, HIGH = np.array([0.15, -0.3048]), np.array([0.6, 0.3048])


class Client:
    """As pybullet_utils.bullet_client: connected once made; `connected` counts what is."""

    connected = 0

    def __init__(self):
        Client.connected += 1

    def disconnect(self):
        Client.connected -= 1


class LanguageTable:
    crowded = 0  # boards still to come that have no room

    def __init__(
        self, block_mode, training=True, reward_factory=None, control_frequency=10.0, shared_memory=False,
        seed=None, delay_reward_steps=0, render_text_in_image=True, debug_visuals=False, add_invisible_walls=False,
    ):
        self._rng = np.random.RandomState(seed=seed)
        self._block_mode, self._reward_calculator, self._instruction = block_mode, None, None
        self._client, self._motors, self.actions = Client(), np.zeros(2), []
        self.reset()
        if reward_factory is not None:
            self._reward_calculator = reward_factory(
                goal_reward=100.0, rng=self._rng, delay_reward_steps=delay_reward_steps, block_mode=block_mode
            )

    @property
    def pybullet_client(self):
        return self._client

    def reset(self, reset_poses=True):
        self._target = self._rng.uniform(LOW + 0.08, HIGH - 0.08)
        self._effector = self._target + 0.01 * self._motors  # restoreState does not clear motor control
        self._block = self._rng.uniform(LOW + 0.08, HIGH - 0.08)
        if self._reward_calculator is not None:
            if LanguageTable.crowded:
                LanguageTable.crowded -= 1
                raise ValueError("Exceeded max attempts for generating block pose.")
            self._instruction = self._reward_calculator.reset(self._state(), blocks_on_table=("red_moon",))
        return self._observation()

    def seed(self, seed=None):
        self._rng = np.random.RandomState(seed=seed)
        self._reward_calculator.seed(self._rng)

    def step(self, action):
        self.actions.append(np.array(action))
        self._target = np.clip(self._target + [action[0], action[1]], LOW, HIGH)
        self._motors = self._target - self._effector
        self._effector = self._effector + 0.9 * self._motors
        reward, done = self._reward_calculator.reward(self._state())
        return self._observation(), reward, done, {}

    def _state(self):
        effector = self._effector.astype(np.float32)
        return {"effector_translation": effector, "block_red_moon_translation": self._block}

    def _observation(self):
        rgb = np.full((180, 320, 3), 200, np.uint8)
        for place, colour in ((self._block, (255, 0, 0)), (self._effector, (0, 0, 0))):
            row, column = ((place - LOW) / (HIGH - LOW) * (170, 310)).clip(0, (170, 310)).astype(int)
            rgb[row : row + 10, column : column + 10] = colour
        codes = list((self._instruction or "").encode("utf-8"))
        return collections.OrderedDict(
            effector_translation=self._effector.astype(np.float32),
            effector_target_translation=self._target.astype(np.float32),
            instruction=np.array(codes + [0] * (512 - len(codes)), np.int32),
            rgb=rgb,
        )
