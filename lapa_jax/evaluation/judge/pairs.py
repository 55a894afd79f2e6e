"""What a LAQ is judged on: held-out pairs of one dataset, with what is known of how things moved."""

import dataclasses

import numpy as np

from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data.tables import standard
from lapa_jax.evaluation import laq_quality
from lapa_jax.evaluation.judge import flow
from lapa_jax.evaluation.judge.outcome import NotMeasured
from lapa_jax.evaluation.judge.splits import Split

_STEPS = 4  # flow is summed over at most this many steps of a gap
_MOVES = 0.1  # columns of a displacement that vary less than this share of the largest do not move
_TRIPLES = 500


def names(mixture: episodes_lib.Mixture) -> list[str]:
    """One a member; numbered where two datasets have the same."""
    own = [member.name for member in mixture.members]
    return [name if own.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(own)]


@dataclasses.dataclass(frozen=True)
class Target:
    """The motion of each pair.

    Attributes:
        name: what moves.
        unit: of the values; "" where columns have units of their own.
        columns: their names.
        values: float64[N, D].
        true: whether it was recorded by the robot, not estimated from the frames.
    """

    name: str
    unit: str
    columns: tuple[str, ...]
    values: np.ndarray
    true: bool


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Held-out pairs of one dataset.

    Attributes:
        name: of the dataset.
        held: frames, uint8.
        episodes: int[N], the episode of each pair.
        split: see `Split`; None where there are too few episodes, for the reason in `why`.
        target: what probes read: true motion, else measured flow, else None for the reason in `why`.
        flow: (overall motion float64[N, 2], descriptor float64[N, F]) in widths; None without OpenCV.
        triple: rows int[M] of pairs whose episode goes on for another gap.
        third: uint8[M, H, W, 3], the frames after that gap.
        why: name of what is missing -> reason.
    """

    name: str
    held: laq_quality.Held
    episodes: np.ndarray
    split: Split | None
    target: Target | None
    flow: tuple[np.ndarray, np.ndarray] | None
    triple: np.ndarray
    third: np.ndarray
    why: dict[str, str]

    def __len__(self) -> int:
        return len(self.episodes)

    @classmethod
    def sample(
        cls, name: str, episodes: episodes_lib.Episodes, seconds: float, count: int, image_size: int, seed: int
    ) -> "Pairs":
        """Up to `count` pairs that lie `seconds` apart, in stored order."""
        held = laq_quality.Held.sample(episodes, seconds, count, image_size, seed)
        moved = _moved(episodes, held, image_size) if flow.available() else None
        triple, third = _third(episodes, held, image_size)
        return cls.of(name, held, true_motion(episodes, held), moved, triple, third, seed)

    @classmethod
    def of(
        cls,
        name: str,
        held: laq_quality.Held,
        target: Target | None,
        moved: tuple[np.ndarray, np.ndarray] | None,
        triple: np.ndarray,
        third: np.ndarray,
        seed: int,
    ) -> "Pairs":
        """Divides the episodes and notes what is missing; arguments as the attributes."""
        numbers, why, split = np.array([e for e, _ in held.pairs]), {}, None
        try:
            split = Split.of(numbers, seed)
        except NotMeasured as error:
            why["split"] = str(error)
        if target is None:
            why["truth"] = f"{name} has neither an effector nor actions"
            if moved is not None:
                target = measured_motion(moved[0])
        if moved is None:
            why["flow"] = flow.MISSING
        return cls(name, held, numbers, split, target, moved, triple, third, why)


def true_motion(episodes: episodes_lib.Episodes, held: laq_quality.Held) -> Target | None:
    """Displacement of the effector over the gap, else the actions between the two frames, else None."""
    if held.motion is not None:
        values = held.motion.astype(np.float64)
        spread = values.std(axis=0)
        kept = np.flatnonzero(spread >= _MOVES * spread.max())
        names = tuple("xyz"[c] if values.shape[1] <= 3 else str(c) for c in kept)
        return Target("effector displacement", "m", names, values[:, kept], true=True)
    if "action" not in episodes.arrays:
        return None
    return actions(episodes, held)


def actions(episodes: episodes_lib.Episodes, held: laq_quality.Held) -> Target | None:
    """What the actions between the two frames add up to; None where no column varies.

    Columns that command a movement are summed; those that command a position (their names in the table
    do not begin with d) count as the difference of the two ends. The gripper is left out.
    """
    entry, trajectories = standard.lookup(episodes.name), episodes["action"]
    rows = []
    for e, t in held.pairs:
        action = trajectories[e]
        rows.append((action[t : t + held.gap].sum(axis=0), action[t + held.gap] - action[t]))
    summed, difference = (np.stack(side).astype(np.float64) for side in zip(*rows, strict=True))
    known = entry is not None and len(entry.action_dim_names) == summed.shape[1]
    names = entry.action_dim_names if known else tuple(f"action {i}" for i in range(summed.shape[1]))
    absolute = [known and not name.startswith("d") for name in names]
    values = np.where(absolute, difference, summed)
    kept = [i for i, name in enumerate(names) if name != "gripper" and values[:, i].std() > 1e-9]
    if not kept or not np.isfinite(values).all():
        return None
    return Target("actions over the gap", "", tuple(names[i] for i in kept), values[:, kept], true=True)


def measured_motion(overall: np.ndarray) -> Target:
    """The motion of what moves, from optical flow; where nothing is known of the robot."""
    return Target("measured flow", "widths", ("right", "up"), overall, true=False)


def _moved(
    episodes: episodes_lib.Episodes, held: laq_quality.Held, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """`flow.along` every pair, with some of the frames between its two."""
    steps = np.round(np.linspace(0, held.gap, min(held.gap, _STEPS) + 1)).astype(int)[1:-1]
    parts = []
    for start in range(0, len(held.pairs), laq_quality.CHUNK):
        rows = slice(start, start + laq_quality.CHUNK)
        inner = [[episodes.frame(e, t + int(s), image_size) for e, t in held.pairs[rows]] for s in steps]
        parts.append(flow.along(np.stack([held.frame[rows], *inner, held.following[rows]], axis=1)))
    overall, descriptor = (np.concatenate(side) for side in zip(*parts, strict=True))
    return overall, descriptor


def _third(
    episodes: episodes_lib.Episodes, held: laq_quality.Held, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose episode goes on for another gap, at most 500 of them, and the frames there."""
    rows = [i for i, (e, t) in enumerate(held.pairs) if t + 2 * held.gap < episodes.lengths[e]]
    if not rows:
        return np.zeros(0, int), np.zeros((0, *held.frame.shape[1:]), np.uint8)
    rows = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, _TRIPLES).astype(int))]
    frames = [episodes.frame(e, t + 2 * held.gap, image_size) for e, t in (held.pairs[i] for i in rows)]
    return np.array(rows), np.stack(frames)
