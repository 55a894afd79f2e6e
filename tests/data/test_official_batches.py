"""Whole sequences that share rows: nothing lost, nothing cut, nothing mixed."""

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import official_batches
from lapa_jax.data.sequences import Tokens


def sequences(count=40, least=3, most=20, seed=0):
    """Each starts with an id of its own."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(count):
        size = random.integers(least, most)
        ids = np.concatenate([[1000 + i], random.integers(1, 100, size - 1)]).astype(np.int32)
        found.append(Tokens(ids, random.integers(0, 3, size).astype(np.int8), random.random(size) < 0.3))
    return found


def unpacked(batches):
    """The sequences in the rows, by their first id."""
    found = {}
    for batch in batches:
        for row in range(len(batch["tokens"])):
            for segment in range(1, batch["segments"][row].max() + 1):
                at = np.flatnonzero(batch["segments"][row] == segment)
                np.testing.assert_array_equal(at, np.arange(at[0], at[0] + len(at)))
                parts = {name: values[row, at] for name, values in batch.items() if name != "segments"}
                assert found.setdefault(int(parts["tokens"][0]), parts) is parts, "twice"
    return found


@pytest.mark.parametrize("length, window", [(19, 1), (24, 8), (64, 64)])
def test_each_sequence_is_there_once_and_whole(length, window):
    given = sequences()
    batches = list(official_batches.fit_together(given, 3, length, window))
    found = unpacked(batches)
    assert len(found) == len(given)
    for one in given:
        parts = found[int(one.tokens[0])]
        np.testing.assert_array_equal(parts["tokens"], one.tokens[:-1])
        np.testing.assert_array_equal(parts["targets"], one.tokens[1:])
        np.testing.assert_array_equal(parts["kinds"], one.kinds[:-1])
        np.testing.assert_array_equal(parts["target_kinds"], one.kinds[1:])
        np.testing.assert_array_equal(parts["loss_mask"], one.loss[1:])
    for batch in batches:
        assert not batch["loss_mask"][batch["segments"] == 0].any()


def test_rows_are_fuller_than_with_one_sequence_each():
    given = sequences(300)
    batches = list(official_batches.fit_together(given, 4, 64))
    full = np.concatenate([batch["segments"] > 0 for batch in batches[:-1]])
    assert full.mean() > 0.97
    assert np.mean([len(one.tokens) - 1 for one in given]) / 64 < 0.2


def test_a_sequence_that_is_too_long_is_an_error_not_a_cut():
    with pytest.raises(errors.UserError, match="19 tokens and a row takes 18"):
        list(official_batches.fit_together(sequences(1, 19, 20), 2, 17))
