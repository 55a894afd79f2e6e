"""Task families: what the start looks like and what counts as success. Plain numpy, metres."""

import dataclasses

import numpy as np

from lapa_jax.envs.tabletop import language

FAMILIES = tuple(language.WORDINGS)
FAMILIES_OF_TWO = ("push_to_block", "separate")  # their instruction names a second object

EFFECTOR_LIMIT = 0.25  # the effector's centre stays within +- this on both axes
START_LIMIT = 0.15  # blocks start with their centres within +- this
START_GAP = 0.095  # least distance between the centres of two blocks at the start
PAIR_DISTANCE = 0.085  # centre distance of a pair that is to be separated

TOUCH = 0.070  # point: effector within this of the target's centre
NEAR = 0.100  # push_to_block: centres within this
SIDE = 0.100  # push_to_place, sides: the coordinate is beyond this
CORNER = 0.085  # push_to_place, corners: both coordinates are beyond this
APART = 0.160  # separate: centres further than this

# Family -> least `shortfall` of a start, so that no episode begins almost done.
START_SHORTFALL = {
    "point": 0.12, "push_to_block": 0.07, "push_to_place": 0.07, "separate": 0.07
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One goal. `target` and `reference` index the scene's blocks; `place` is in `PLACES`."""

    family: str
    target: int
    reference: int | None = None
    place: str | None = None


def shortfall(task: Task, effector: np.ndarray, blocks: np.ndarray) -> float:
    """Metres that are missing to success, 0 or less when the task is done.

    Args:
        effector: float[2], centre of the effector in metres.
        blocks: float[N, 2], centres of the blocks in metres.
    """
    target = blocks[task.target]
    if task.family == "point":
        return _point_shortfall(task, effector, blocks)
    if task.family == "push_to_place":
        return _place_shortfall(task.place, target)
    distance = float(np.linalg.norm(target - blocks[task.reference]))
    return distance - NEAR if task.family == "push_to_block" else APART - distance


def succeeded(task: Task, effector: np.ndarray, blocks: np.ndarray) -> bool:
    """Whether the task is done; arguments as in `shortfall`."""
    return shortfall(task, effector, blocks) <= 0


def sample_task(rng: np.random.Generator, family: str) -> Task:
    """Draws a task of `family`: block 0 is its target and block 1 its reference, if it has one."""
    reference = 1 if family in FAMILIES_OF_TWO else None
    places = tuple(language.PLACES)
    place = places[rng.integers(len(places))] if family == "push_to_place" else None
    return Task(family, 0, reference, place)


def sample_layout(
    rng: np.random.Generator, task: Task, num_objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a start that is not yet close to success: effector float[2], blocks float[N, 2]."""
    while True:
        blocks = rng.uniform(-START_LIMIT, START_LIMIT, (num_objects, 2))
        if task.family == "separate":
            angle = rng.uniform(0, 2 * np.pi)
            blocks[task.target] *= 0.6
            offset = PAIR_DISTANCE * np.array([np.cos(angle), np.sin(angle)])
            blocks[task.reference] = blocks[task.target] + offset
        effector = rng.uniform(-0.2, 0.2, 2)
        if _is_good_start(task, effector, blocks):
            return effector, blocks


def _point_shortfall(task: Task, effector: np.ndarray, blocks: np.ndarray) -> float:
    distances = np.linalg.norm(blocks - effector, axis=1)
    nearest_other = np.delete(distances, task.target).min(initial=np.inf)
    distance = float(distances[task.target])
    return max(distance - TOUCH, distance - float(nearest_other))


def _place_shortfall(place: str, position: np.ndarray) -> float:
    signs = np.asarray(language.PLACES[place])
    line = CORNER if signs.all() else SIDE
    return float((line - signs * position)[signs != 0].max())


def _is_good_start(task: Task, effector: np.ndarray, blocks: np.ndarray) -> bool:
    distances = np.linalg.norm(blocks[:, None] - blocks[None], axis=-1)
    distances[np.diag_indices(len(blocks))] = np.inf
    if task.family == "separate":  # the pair is closer than START_GAP on purpose
        pair = [task.target, task.reference]
        distances[pair, pair[::-1]] = np.inf
    free_effector = np.linalg.norm(blocks - effector, axis=1).min() > START_GAP
    far_from_done = shortfall(task, effector, blocks) > START_SHORTFALL[task.family]
    return bool(distances.min() > START_GAP and free_effector and far_from_done)
