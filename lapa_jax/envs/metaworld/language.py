"""Tasks of MetaWorld that are taken, and our words for them; MetaWorld itself has none.

Taken are tasks in which the scripted expert hardly ever fails and the goal can be seen. Several share a scene:
reach, push and pick-place; faucet-open and faucet-close. There only the instruction says what to do.
"""

from lapa_jax.envs import checks

# Task, without MetaWorld's `-v3` -> wordings. The first half belongs to `labelled`, the second half to `heldout`.
WORDINGS = {
    "reach": (
        "move the hand to the green ball",
        "bring the gripper to the green ball",
        "go to the green ball with the hand",
        "hold the gripper at the green ball",
    ),
    "push": (
        "push the puck to the green ball",
        "slide the puck over to the green ball",
        "move the puck along the table to the green ball",
        "shove the puck next to the green ball",
    ),
    "pick-place": (
        "pick up the puck and carry it to the green ball",
        "grasp the puck and hold it at the green ball",
        "lift the puck up to the green ball",
        "take the puck through the air to the green ball",
    ),
    "drawer-open": (
        "open the drawer",
        "pull the drawer out",
        "get the drawer open",
        "slide the drawer out by its handle",
    ),
    "drawer-close": (
        "close the drawer",
        "push the drawer in",
        "get the drawer shut",
        "slide the drawer in by its handle",
    ),
    "door-open": (
        "open the door of the safe",
        "pull the door open",
        "get the door open",
        "swing the door out by its handle",
    ),
    "door-close": (
        "close the door of the safe",
        "push the door closed",
        "get the door shut",
        "swing the door in until it is shut",
    ),
    "faucet-open": (
        "open the faucet",
        "turn the faucet on",
        "get the water running",
        "push the handle of the faucet so that it opens",
    ),
    "faucet-close": (
        "close the faucet",
        "turn the faucet off",
        "get the water to stop",
        "push the handle of the faucet so that it closes",
    ),
    "window-open": (
        "open the window",
        "push the window open",
        "get the window open",
        "slide the window to the side until it is open",
    ),
    "window-close": (
        "close the window",
        "push the window closed",
        "get the window shut",
        "slide the window to the side until it is shut",
    ),
    "button-press-topdown": (
        "press the red button",
        "push the red button down",
        "press the button from above",
        "get the red button all the way down",
    ),
}

# Elsewhere the object itself shows what is wanted, or the marker would tell the task.
MARKED = ("reach", "push", "pick-place")


def split_named(name: str) -> dict[str, tuple[str, ...]]:
    """Wordings of the split `video` (all), `labelled` or `heldout`; raises UserError for another name."""
    checks.choice(name, ("video", "labelled", "heldout"), "metaworld split")
    halves = {"labelled": slice(0, 2), "heldout": slice(2, 4)}
    return {task: wordings[halves.get(name, slice(None))] for task, wordings in WORDINGS.items()}
