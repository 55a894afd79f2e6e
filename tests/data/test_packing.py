"""Which examples share a row: each is placed once, none waits forever, and a planner goes on where it was."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from lapa_jax.data import packing


def planner(sizes, length, window):
    return packing.Planner(lambda i: sizes[i] if i < len(sizes) else None, length, window)


@hypothesis.given(
    sizes=st.lists(st.integers(1, 10), max_size=60), length=st.integers(10, 30), window=st.integers(1, 20),
    rows=st.integers(1, 5),
)  # fmt: skip
def test_each_example_is_in_one_row_that_holds_it(sizes, length, window, rows):
    plan, found = planner(sizes, length, window), []
    while any(batch := plan.batch(rows)):
        assert len(batch) == rows
        found += batch
    assert sorted(i for row in found for i in row) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= length for row in found)


@hypothesis.given(seed=st.integers(0, 99), steps=st.integers(0, 8))
def test_it_goes_on_where_it_was(seed, steps):
    sizes = np.random.default_rng(seed).integers(1, 12, 500).tolist()
    plan, again = planner(sizes, 20, 16), planner(sizes, 20, 16)
    for _ in range(steps):
        plan.batch(3)
    again.set_state(plan.get_state())
    assert [plan.batch(3) for _ in range(4)] == [again.batch(3) for _ in range(4)]


def test_none_waits_forever():
    """Ones that are never the best fit are placed, too."""
    sizes = [5] + [7, 3] * 500  # sevens and threes fill a row of ten; the five never does
    plan = planner(sizes, 10, 8)
    assert 0 in [i for row in plan.batch(8) for i in row]


def test_rows_are_nearly_full():
    sizes = np.random.default_rng(0).integers(270, 300, 4000).tolist()
    plan = planner(sizes, 2048, 56)
    rows = [row for _ in range(20) for row in plan.batch(8)]
    filled = np.mean([sum(sizes[i] for i in row) for row in rows]) / 2048
    assert filled > 0.97  # seven at 285 on average are 0.974
