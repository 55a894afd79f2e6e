"""Bins of actions: edges, ids and values of the official code; what lies outside, and tables that are none."""

import json
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.data import action_bins

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "action"
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no output of the official code at {GOLD}")


def random_actions(count=500, seed=0):
    """Three dimensions, the second with many ties, and a gripper."""
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(count, 4))
    actions[:, 1] = np.round(actions[:, 1])
    actions[:, 3] = rng.integers(0, 2, count)
    return actions


@needs_gold
@pytest.mark.parametrize("num_bins", [16, 256])
def test_official_edges_ids_and_values(num_bins, tmp_path):
    """The CSV byte by byte, every id, and every value to the last bit, also of ids without a bin."""
    rows = json.loads((GOLD / "input.json").read_text())
    actions = np.array([row["conversations"][1]["raw_actions"] for row in rows])
    bins = action_bins.fit(actions, num_bins)
    bins.write(tmp_path / "bins.csv")
    assert (tmp_path / "bins.csv").read_bytes() == (GOLD / f"bins_{num_bins}.csv").read_bytes()
    lines = (GOLD / f"output_{num_bins}.jsonl").read_text().splitlines()
    ids = np.array([json.loads(line)["action"] for line in lines])
    np.testing.assert_array_equal(bins.encode(actions), ids)
    np.testing.assert_array_equal(action_bins.read(GOLD / f"bins_{num_bins}.csv").encode(actions), ids)
    recorded = json.loads((GOLD / "dequant.json").read_text())[f"bins_{num_bins}"]
    tokens, values = np.array(recorded["tokens"]), np.array(recorded["values"])
    np.testing.assert_array_equal(bins.decode(tokens, legacy=True), values)
    inside = (tokens >= 0) & (tokens < bins.counts)
    assert 0 < inside.sum() < tokens.size
    np.testing.assert_array_equal(bins.decode(tokens)[inside], values[inside])


@pytest.mark.parametrize("num_bins", [1, 7, 400])
def test_there_and_back_stays_in_the_bin(num_bins):
    actions = random_actions()
    bins = action_bins.fit(actions, num_bins)
    ids = bins.encode(actions)
    assert ids.dtype == np.int32 and (ids >= 0).all() and (ids < bins.counts).all()
    for i, edges in enumerate(bins.edges[:-1]):
        low, high = edges[ids[:, i]], edges[ids[:, i] + 1]
        last = actions[:, i] == edges[-1]
        assert ((low <= actions[:, i]) & (actions[:, i] < high) | last).all()
    values = bins.decode(ids)
    np.testing.assert_array_equal(bins.encode(values), ids)
    np.testing.assert_array_equal(values[:, -1], actions[:, -1])


def test_bins_hold_equally_many():
    actions = random_actions(1000)
    ids = action_bins.fit(actions, 10).encode(actions)[:, 0]
    assert np.bincount(ids).tolist() == [100] * 10


def test_edges_that_fall_together_are_one():
    bins = action_bins.fit(random_actions(), 256)
    assert bins.counts[0] == 256 and bins.counts[1] < 10 and bins.counts[3] == 2


def test_outside_the_edges():
    bins = action_bins.ActionBins((np.array([0.0, 1.0, 3.0]), np.array(action_bins.GRIPPER_EDGES)))
    assert bins.encode([[-9.0, 0], [0.0, 0], [1.0, 1], [3.0, 1], [9.0, 1]])[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert bins.decode([[-1, 0], [0, 1], [1, 5], [7, -3]]).tolist() == [[0.5, 0], [0.5, 1], [2, 1], [2, 0]]
    assert bins.decode([[-1, 0], [2, 1]], legacy=True).tolist() == [[1.5, 0], [1, 1]]


def test_any_leading_shape():
    bins = action_bins.fit(random_actions(), 16)
    actions = random_actions(24, seed=1).reshape(2, 3, 4, 4)
    ids = bins.encode(actions)
    np.testing.assert_array_equal(ids.reshape(-1, 4), bins.encode(actions.reshape(-1, 4)))
    assert bins.decode(ids).shape == actions.shape


def test_tables_are_read_as_written(tmp_path):
    bins = action_bins.fit(random_actions(), 16)
    bins.write(tmp_path / "bins.csv")
    for ours, theirs in zip(bins.edges, action_bins.read(tmp_path / "bins.csv").edges, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)
    with pytest.raises(errors.UserError, match="exists"):
        bins.write(tmp_path / "bins.csv")
    with pytest.raises(errors.UserError, match="cannot write"):
        bins.write(tmp_path / "nowhere" / "bins.csv")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a[:0], r"16 bins of actions \(0, 4\)"),
        (lambda a: a[0], r"actions \(4,\)"),
        (lambda a: a * np.nan, "finite"),
    ],
)
def test_actions_without_bins(change, message):
    with pytest.raises(errors.UserError, match=message):
        action_bins.fit(change(random_actions()), 16)


def test_a_dimension_that_never_changes_has_one_bin():
    actions = random_actions()
    actions[:, 2] = 0.25
    bins = action_bins.fit(actions, 16)
    assert bins.counts[2] == 1
    np.testing.assert_allclose(bins.decode(bins.encode(actions))[:, 2], 0.25, rtol=1e-6)


def test_wrong_actions_are_named():
    bins = action_bins.fit(random_actions(), 16)
    for actions, message in (
        ([1, 2, 1], r"actions \(3,\), but bins for 4"),
        ([0, 0, 0, 0.5], "gripper, is 0.5"),
        ([0, np.inf, 0, 1], "not finite"),
    ):
        with pytest.raises(errors.UserError, match=message):
            bins.encode(actions)
    with pytest.raises(errors.UserError, match="but bins for 4"):
        bins.decode([1, 2, 3])


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has 0 lines"),
        ("0,1,2\n0,1\n", "has 2 lines"),
        ("0,1,2\n0,1,2\n0,x,2\n", "line 3 is not a row of growing edges: 0,x,2"),
        ("0,1,2\n0,1,1\n0,1,2\n", "line 2"),
        ("0,1,2\n0,nan,1\n0,1,2\n", "line 2"),
        ("0,1,2\n0,,\n0,1,2\n", "line 2"),
    ],
)
def test_other_tables_are_named(text, message, tmp_path):
    (tmp_path / "bins.csv").write_text(text)
    with pytest.raises(errors.UserError, match=message):
        action_bins.read(tmp_path / "bins.csv")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(errors.UserError, match="cannot read"):
        action_bins.read(tmp_path / "bins.csv")
    (tmp_path / "bins.csv").write_bytes(b"\xff\xfe0,1")
    with pytest.raises(errors.UserError, match="no CSV"):
        action_bins.read(tmp_path / "bins.csv")


@hypothesis.given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=40, unique=True),
    st.integers(1, 40),
    st.booleans(),
)
def test_decoding_undoes_encoding_within_a_bin(values, num_bins, gripper):
    """And every id comes back from the middle of its bin."""
    column = np.array(values)
    actions = np.stack([column, np.arange(len(column)) % 2], axis=1)
    bins = action_bins.fit(actions, num_bins, gripper)
    ids = bins.encode(actions)
    back, edges = bins.decode(ids), bins.edges[0]
    width = (edges[1:] - edges[:-1])[ids[:, 0]]
    assert (np.abs(back[:, 0] - column) <= width / 2 + 1e-9 * np.abs(column).max()).all()
    np.testing.assert_array_equal(bins.encode(np.stack([back[:, 0], actions[:, 1]], axis=1))[:, 0], ids[:, 0])
    if gripper:
        np.testing.assert_array_equal(back[:, 1], actions[:, 1])
