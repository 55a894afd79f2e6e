"""A scripted expert: sees the true state, remembers nothing, so a single frame explains it."""

import numpy as np

from lapa_jax.envs.drift import Drift
from lapa_jax.envs.tabletop import language, tasks

SPEED = 0.028  # metres per step
BEHIND = 0.080  # metres from a block's centre to the spot from which it is pushed
CLEARANCE = 0.072  # metres kept between the effector and the centre of a block on the way
CONE = 0.55  # pushing starts within this lateral / backward ratio
CENTRING = 15.0  # 1/metres: how hard the effector steers to the pushing line


class Expert:
    """Closed-loop pusher. `noise` is the std, in metres per step, of a smooth perturbation."""

    def __init__(self, noise: float = 0.0):
        self._drift = Drift(noise, 2)

    def action(self, env, rng: np.random.Generator) -> np.ndarray:
        """float32[2]: displacement for the current state of `env`; clip it to the action box.

        The perturbation is the only memory; it starts from zero with each episode.
        """
        env = env.unwrapped
        heading = plan(env.task, env.effector, env.blocks)
        drift = self._drift.step(rng, first=env.num_steps == 0)
        limit = env.action_space.high
        return np.clip(SPEED * heading + drift, -limit, limit).astype(np.float32)


def plan(task: tasks.Task, effector: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Unit vector in which to move; effector float[2], blocks float[N, 2], metres."""
    others = np.delete(blocks, task.target, axis=0)
    if task.family == "point":
        return steer(effector, blocks[task.target], others)
    return push(effector, blocks[task.target], push_direction(task, effector, blocks), others)


def push_direction(task: tasks.Task, effector: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Unit vector in which the target block has to go."""
    target = blocks[task.target]
    if task.family == "push_to_block":
        return _unit(blocks[task.reference] - target)
    if task.family == "separate":
        return _parting_direction(effector, target, blocks[task.reference])
    signs = np.asarray(language.PLACES[task.place], float)
    return _unit(np.where(signs != 0, 0.15 * signs - target, 0.0))


def push(
    effector: np.ndarray, target: np.ndarray, direction: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Gets behind the target on the pushing line, going round blocks, then pushes along it."""
    offset = effector - target
    normal = np.array([-direction[1], direction[0]])
    behind, lateral = -offset @ direction, offset @ normal
    if abs(lateral) < CONE * behind and behind < BEHIND + 0.02:
        return _unit(direction - CENTRING * lateral * normal)
    spot = target - BEHIND * direction
    return steer(effector, spot, np.concatenate([others, target[None]]))


def steer(effector: np.ndarray, goal: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
    """Heads for `goal`, or along the tangent of the first obstacle on the straight way."""
    heading = _unit(goal - effector)
    distance = np.linalg.norm(goal - effector)
    nearest = np.inf
    result = heading
    for centre in obstacles:
        radius = min(CLEARANCE, 0.95 * np.linalg.norm(goal - centre))
        to_centre = centre - effector
        ahead = to_centre @ heading
        side = to_centre[0] * heading[1] - to_centre[1] * heading[0]
        if 0 < ahead < min(distance, nearest) and abs(side) < radius:
            nearest = ahead
            result = _tangent(to_centre, radius, 1.0 if side >= 0 else -1.0)
    return result


def _tangent(to_centre: np.ndarray, radius: float, side: float) -> np.ndarray:
    """Unit vector past a circle on its left (side=1) or right; leads outwards when inside it."""
    gap = np.linalg.norm(to_centre)
    inside = max(0.0, 1 - gap / radius)
    angle = side * (np.arcsin(min(1.0, radius / gap)) + 1.5 * inside)
    x, y = to_centre / gap
    return np.array([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)])


def _parting_direction(
    effector: np.ndarray, target: np.ndarray, reference: np.ndarray
) -> np.ndarray:
    """Away from the reference but mostly sideways: its near side leaves no room to push from."""
    away = _unit(target - reference)
    sideways = np.array([-away[1], away[0]])
    preference = (target - effector) @ sideways - target @ sideways
    return _unit(away + 1.5 * np.copysign(1.0, preference) * sideways)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.linalg.norm(vector), 1e-9)
