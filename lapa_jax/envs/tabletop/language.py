"""Words of the tabletop: colours, shapes, wordings, and which of them each split may use.

A split is about what an instruction may name. `video` names everything; `labelled` and `heldout`
share neither a target colour nor a wording, so an instruction of one never occurs in the other.
Distractors (objects that the instruction does not name) may have any colour in every split.
"""

import dataclasses

import numpy as np

from lapa_jax.errors import UserError

# Name -> RGB in [0, 1].
COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.05, 0.55, 0.10),
    "yellow": (1.00, 0.85, 0.00),
    "blue": (0.05, 0.20, 0.95),
    "purple": (0.60, 0.10, 0.70),
    "cyan": (0.10, 0.85, 0.90),
}
LABELLED_COLOURS = ("red", "green", "yellow")
HELDOUT_COLOURS = ("blue", "purple", "cyan")

SHAPES = ("cube", "cylinder", "triangle")

# Place -> (x, y) sign of the side or corner; 0 leaves that coordinate free.
PLACES = {
    "left side": (-1, 0),
    "right side": (1, 0),
    "top side": (0, 1),
    "bottom side": (0, -1),
    "top left corner": (-1, 1),
    "top right corner": (1, 1),
    "bottom left corner": (-1, -1),
    "bottom right corner": (1, -1),
}

# Family -> wordings. {a}: the target, {b}: the reference object, {place}: a key of PLACES.
# The first half belongs to `labelled`, the second half to `heldout`.
WORDINGS = {
    "point": (
        "point at the {a}",
        "move to the {a}",
        "touch the {a}",
        "go to the {a} and touch it",
        "reach for the {a}",
        "point your arm at the {a}",
        "move the arm to the {a}",
        "place the arm next to the {a}",
    ),
    "push_to_block": (
        "push the {a} to the {b}",
        "move the {a} to the {b}",
        "push the {a} next to the {b}",
        "bring the {a} over to the {b}",
        "slide the {a} to the {b}",
        "put the {a} next to the {b}",
        "join the {a} with the {b}",
        "slide the {a} until it is near the {b}",
    ),
    "push_to_place": (
        "push the {a} to the {place}",
        "move the {a} to the {place}",
        "bring the {a} to the {place} of the table",
        "take the {a} over to the {place}",
        "slide the {a} to the {place}",
        "put the {a} on the {place}",
        "the {a} belongs at the {place}",
        "slide the {a} towards the {place} of the table",
    ),
    "separate": (
        "push the {a} away from the {b}",
        "separate the {a} from the {b}",
        "move the {a} far from the {b}",
        "take the {a} away from the {b}",
        "pull the {a} apart from the {b}",
        "slide the {a} away from the {b}",
        "get the {a} away from the {b}",
        "put some distance between the {a} and the {b}",
    ),
}


@dataclasses.dataclass(frozen=True)
class Split:
    """What instructions may name: target colours, and a slice of each family's wordings."""

    colours: tuple[str, ...]
    wordings: dict[str, tuple[str, ...]]


def split_named(name: str) -> Split:
    """Returns the split `video`, `labelled` or `heldout`; raises UserError for another name."""
    halves = {family: len(wordings) // 2 for family, wordings in WORDINGS.items()}
    first = {family: WORDINGS[family][:half] for family, half in halves.items()}
    second = {family: WORDINGS[family][half:] for family, half in halves.items()}
    splits = {
        "video": Split(tuple(COLOURS), WORDINGS),
        "labelled": Split(LABELLED_COLOURS, first),
        "heldout": Split(HELDOUT_COLOURS, second),
    }
    if name not in splits:
        raise UserError(f"unknown tabletop split {name!r}: choose one of {', '.join(splits)}")
    return splits[name]


def instruct(
    rng: np.random.Generator,
    wordings: tuple[str, ...],
    a: str,
    b: str | None = None,
    place: str | None = None,
) -> str:
    """Draws a wording and fills in the names, e.g. "push the red cube to the blue cylinder"."""
    return wordings[rng.integers(len(wordings))].format(a=a, b=b, place=place)
