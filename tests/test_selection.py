"""A tree of parameters is cut in two by paths, and each expression has to mean something."""

import jax
import numpy as np
import pytest

from lapa_jax import errors, selection
from lapa_jax.selection import Selection

PARAMS = {
    "planner": {"body": {"wq": {"kernel": 1, "lora_a": 2}}, "norm": {"scale": 3}},
    "head": {"kernel": 4, "bias": 5},
    "unused": {},
}


@pytest.mark.parametrize(
    "trainable, frozen, expected",
    [
        ("", "^planner/", {4, 5}),
        ("lora|^head/", "", {2, 4, 5}),
        ("^planner/", "norm", {1, 2}),
        ("kernel$", "^planner/body", {4}),
        ("", "", {1, 2, 3, 4, 5}),
    ],
)
def test_what_is_trained_is_what_matches(trainable, frozen, expected):
    chosen, rest = Selection(trainable, frozen).split(PARAMS)
    assert set(jax.tree.leaves(chosen)) == expected
    assert set(jax.tree.leaves(rest)) == set(jax.tree.leaves(PARAMS)) - expected
    assert selection.join(chosen, rest) == PARAMS


def test_the_parts_have_the_paths_of_the_whole_and_no_others():
    chosen, rest = Selection("lora").split(PARAMS)
    assert chosen == {"planner": {"body": {"wq": {"lora_a": 2}}}}
    assert rest["planner"]["body"]["wq"] == {"kernel": 1} and rest["unused"] == {}
    tenfold = selection.join(jax.tree.map(lambda x: 10 * x, chosen), rest)
    assert tenfold["planner"]["body"]["wq"] == {"kernel": 1, "lora_a": 20}


def test_without_expressions_any_tree_is_trained():
    tree = [np.ones(2), (np.ones(1),)]
    chosen, rest = Selection().split(tree)
    assert chosen is tree and selection.join(chosen, rest) is tree


@pytest.mark.parametrize(
    "trainable, frozen, message",
    [
        ("lorra", "", "optimizer.trainable='lorra' matches no parameter, such as planner/body/wq/"),
        ("lora", "mystery", "optimizer.frozen='mystery' matches no parameter"),
        ("lora", "^planner", "trainable='lora' and frozen='\\^planner' leave nothing to train"),
        ("", ".", "leave nothing to train"),
    ],
)
def test_an_expression_that_means_nothing_is_refused(trainable, frozen, message):
    with pytest.raises(errors.UserError, match=message):
        Selection(trainable, frozen).split(PARAMS)
