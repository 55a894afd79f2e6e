"""What a page is made with: how often it looks, what the policy is shown, what its actions are called."""

import types

import numpy as np
import page_world
import pytest

from lapa_jax import errors
from lapa_jax.serving.page import Live


def live(infer=None, **changes):
    fields = {name: changes.pop(name) for name in list(changes) if name in Live.__dataclass_fields__}
    return Live(infer=infer, metadata=page_world.METADATA | changes, **fields)


BOX = types.SimpleNamespace(
    action_space=types.SimpleNamespace(low=[-1, -np.inf], high=[np.inf, 2]),
    action_space_description={"names": ["theirs", "too"], "units": "x: 5 cm; y: 2 cm"},
)


@pytest.mark.parametrize(
    "changes, steps",
    [({}, 2), ({"horizon": 1}, 1), ({"history": 3}, 3), ({"execute": 4}, 4), ({"execute": 4, "ensemble": 0.0}, 1)],
)
def test_steps_from_one_look_to_the_next(changes, steps):
    chunk = np.zeros((1, 4, 2))
    assert live(**changes).steps == len(live(**changes).chunks().next(chunk)) == steps


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"execute": 5}, "the policy gives 4 actions at once"),
        ({"execute": 0}, "execute=0"),
        ({"history": 3, "execute": 2}, "look every 3 steps"),
        ({"history": 3, "ensemble": 0.0}, "look every 3 steps"),
    ],
)
def test_steps_that_the_policy_cannot_take_are_refused(changes, sentence):
    with pytest.raises(errors.UserError, match=sentence):
        live(**changes)


SEEN = {"image": "I", "wrist": "W", "proprio": "P", "effector": "E", "instruction": "theirs"}


@pytest.mark.parametrize(
    "changes, shown",
    [
        ({}, {"image": "I"}),
        ({"cameras": ["image", "wrist"]}, {"image": "I", "wrist": "W"}),
        ({"proprio_dim": 2}, {"image": "I", "proprio": "P"}),
        ({"proprio_dim": 2, "proprio": "effector"}, {"image": "I", "proprio": "E"}),
        ({"history": 2}, {"image": "I", "last_latents": [5]}),
    ],
)
def test_the_policy_is_shown_what_it_wants_and_no_more(changes, shown):
    found = live(**changes).observed(SEEN, "ours", np.int32([5]))
    assert found == shown | {"instruction": "ours"}
    assert "last_latents" not in live(**changes).observed(SEEN, "ours")


@pytest.mark.parametrize("changes", [{"cameras": ["side"]}, {"proprio_dim": 2, "proprio": "side"}])
def test_what_the_environment_does_not_show_is_named(changes):
    with pytest.raises(errors.UserError, match="wants 'side' and tabletop shows image, wrist"):
        live(**changes).observed(SEEN, "ours")


@pytest.mark.parametrize(
    "space, names, units, declared",
    [
        (None, ["theirs", "too"], ["", ""], "units: x: 5 cm; y: 2 cm"),
        ({"note": "who knows"}, ["dim 0", "dim 1"], ["", ""], "note: who knows"),
        ({"names": ["x", "grip"], "units": "m, 0 or 1"}, ["x", "grip"], ["m", "0 or 1"], ""),
        ({"names": ["x", "y"], "units": "m", "convention": "delta"}, ["x", "y"], ["m", "m"], "convention: delta"),
        ({"names": ["x"] * 3, "units": "a,b,c"}, ["dim 0", "dim 1"], ["", ""], "units: a,b,c"),
    ],
)
def test_actions_are_called_what_the_dataset_calls_them(space, names, units, declared):
    made = live(action_space=space)
    axes = made.axes(BOX)
    assert [axis["name"] for axis in axes] == names and [axis["unit"] for axis in axes] == units
    assert [axis["low"] for axis in axes] == [-1, None] and [axis["high"] for axis in axes] == [None, 2]
    assert made.declared(BOX) == declared


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({}, "No LAQ was given"),
        ({"no_imagination": "Because."}, "Because."),
        ({"imagine": print}, None),
        ({"imagine": print, "plans_latents": False, "head": "l1"}, "head (l1) acts without planning"),
    ],
)
def test_why_nothing_is_imagined(changes, sentence):
    found = live(**changes).why_no_imagination
    assert found is sentence or sentence in found
