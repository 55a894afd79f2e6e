"""Statistics, normalisation and its inverse."""

import dataclasses
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.data import columns, statistics

SCHEMES = ("quantile", "gaussian")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(20))
def test_unnormalise_undoes_normalise(scheme, seed):
    generator = np.random.default_rng(seed)
    dims = int(generator.integers(1, 8))
    scale = 10.0 ** generator.uniform(-3, 2, dims)
    shift = generator.normal(0, 10, dims) * scale
    trajectories = [
        (generator.normal(size=(length, dims)) * scale + shift).astype(np.float32)
        for length in generator.integers(1, 30, size=4)
    ]
    scaling = statistics.compute(trajectories, scheme)
    outside = np.concatenate(trajectories) * 1.5
    tolerance = 1e-5 * np.abs(outside).max(axis=0)
    back = scaling.unnormalise(scaling.normalise(outside))
    assert (np.abs(back - outside) <= tolerance).all()
    assert back.dtype == np.float32 and scaling.normalise(outside).dtype == np.float32


def test_values_on_known_data():
    rows = np.stack([np.linspace(-1, 1, 201), np.linspace(0, 10, 201)], axis=1)
    scaling = statistics.compute([rows[:50], rows[50:]])
    np.testing.assert_allclose(scaling.mean, [0, 5], atol=1e-6)
    np.testing.assert_allclose(scaling.min, [-1, 0])
    np.testing.assert_allclose(scaling.max, [1, 10])
    np.testing.assert_allclose(scaling.q01, [-0.98, 0.1], rtol=1e-5)
    np.testing.assert_allclose(scaling.q99, [0.98, 9.9], rtol=1e-5)
    assert scaling.count == 201
    np.testing.assert_allclose(scaling.normalise(scaling.q99), 1, rtol=1e-5)
    np.testing.assert_allclose(scaling.normalise(scaling.q01), -1, rtol=1e-5)


def test_gaussian_gives_zero_mean_and_unit_std():
    rows = np.random.default_rng(0).normal(3, 0.02, (1000, 2)).astype(np.float32)
    normalised = statistics.compute([rows], "gaussian").normalise(rows)
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(normalised.std(0), 1, rtol=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_near_constant_dimensions_are_not_blown_up(scheme):
    generator = np.random.default_rng(0)
    rows = np.stack([generator.normal(size=100), 5 + 1e-7 * generator.normal(size=100)], axis=1)
    normalised = statistics.compute([rows], scheme).normalise(rows)
    assert np.abs(normalised[:, 1]).max() < 1e-5 < np.abs(normalised[:, 0]).max()
    constant = statistics.compute([np.ones((5, 2))], scheme).normalise(np.ones((5, 2)))
    np.testing.assert_array_equal(constant, 0)


def test_json_round_trip():
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    scaling = statistics.compute([rows], "gaussian")
    read = statistics.Statistics.from_json(scaling.to_json())
    assert read.to_json() == scaling.to_json()
    np.testing.assert_array_equal(read.normalise(rows), scaling.normalise(rows))


def test_bad_input_is_named():
    with pytest.raises(errors.UserError, match="no actions"):
        statistics.compute([])
    with pytest.raises(errors.UserError, match="1 of 3 actions"):
        statistics.compute([np.array([[0, 1], [np.nan, 1], [1, 1]])])
    with pytest.raises(errors.UserError, match="'minmax'"):
        statistics.compute([np.ones((3, 2))], "minmax")
    with pytest.raises(errors.UserError, match="not saved statistics"):
        statistics.Statistics.from_json("{}")


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    dims=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    exponents=st.tuples(st.floats(-12, 12), st.floats(-12, 12)),
    ties=st.booleans(),
    block=st.integers(1, 5),
)
def test_streamed_statistics_are_those_of_numpy(lengths, dims, seed, exponents, ties, block):
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(sum(lengths), dims)) * 10 ** exponents[0] + 10 ** exponents[1]
    rows = (np.round(rows) if ties else rows).astype(np.float32)
    trajectories = np.split(rows, np.cumsum(lengths)[:-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_BLOCK", block)
        patch.setattr(statistics, "_PIECE", 7)
        found = statistics.compute(trajectories)
    exact = rows.astype(np.float64)
    assert found.count == len(rows)
    np.testing.assert_array_equal(found.min, rows.min(0))
    np.testing.assert_array_equal(found.max, rows.max(0))
    largest = np.abs(exact).max(0)
    for name, expected in (
        ("mean", exact.mean(0)), ("std", exact.std(0)),
        ("q01", np.quantile(exact, 0.01, axis=0)), ("q99", np.quantile(exact, 0.99, axis=0)),
    ):  # fmt: skip
        error = np.abs(getattr(found, name) - expected)
        assert (error <= 1e-7 * np.abs(expected) + 1e-13 * largest + 1e-37).all(), name


def test_processes_give_the_rows_in_their_order(robot_episodes, monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK", 1)
    table = columns.gather(robot_episodes["action"], workers=2)
    expected = np.concatenate(list(robot_episodes["action"]))
    np.testing.assert_array_equal(np.stack([table[0], table[1]], axis=1), expected)
    assert len(table) == 2 and table.ends.tolist() == np.cumsum(robot_episodes.lengths).tolist()
    first, second = (int(n) for n in robot_episodes.lengths[:2])
    assert table.place(0) == (0, 0) and table.place(first) == (1, 0)
    assert table.place(first + second - 1) == (1, second - 1)


def test_episodes_that_do_not_fit_together_are_named():
    with pytest.raises(errors.UserError, match="2 and 3 values a step"):
        statistics.compute([np.ones((4, 3)), np.ones((4, 2))])
    assert statistics.compute([np.ones((0, 3)), np.ones((4, 2))]).count == 4
    with pytest.raises(errors.UserError, match="no actions"):
        statistics.compute([np.ones((0, 3))])
    with pytest.raises(errors.UserError, match="1 of 2 actions are not finite"):
        statistics.compute([np.array([[1.0], [1e300]])])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unscaled_dimensions_stay_as_they_are(scheme):
    generator = np.random.default_rng(0)
    rows = np.stack([generator.normal(5, 2, 100), generator.integers(0, 2, 100)], axis=1).astype(np.float32)
    scaling = statistics.compute([rows], scheme, unscaled=[-1])
    assert scaling.unscaled == (1,) and scaling.scaled.tolist() == [True, False]
    normalised = scaling.normalise(rows)
    np.testing.assert_array_equal(normalised[:, 1], rows[:, 1])
    np.testing.assert_array_equal(normalised[:, 0], statistics.compute([rows], scheme).normalise(rows)[:, 0])
    np.testing.assert_allclose(scaling.unnormalise(normalised), rows, rtol=1e-5, atol=1e-5)
    read = statistics.Statistics.from_json(scaling.to_json())
    np.testing.assert_array_equal(read.normalise(rows), normalised)
    with pytest.raises(errors.UserError, match="no dimension 2 .* there are 2"):
        statistics.compute([rows], scheme, unscaled=[2])


def test_a_wide_unscaled_dimension_does_not_make_others_constant():
    generator = np.random.default_rng(0)
    rows = np.stack([1e-4 * generator.normal(size=100), generator.integers(0, 2, 100)], axis=1)
    assert np.abs(statistics.compute([rows]).normalise(rows)[:, 0]).max() < 1e-3
    assert np.abs(statistics.compute([rows], unscaled=[1]).normalise(rows)[:, 0]).max() > 1


def test_json_of_before_is_still_read():
    old = json.loads(statistics.compute([np.eye(3)]).to_json())
    assert old.pop("unscaled") == []
    read = statistics.Statistics.from_json(json.dumps(old))
    assert read.unscaled == () and read.scaled.all()
    old["mean"] = [1.0]
    for text in (json.dumps(old), "[]", "{", '{"scheme": "quantile", "count": "many"}'):
        with pytest.raises(errors.UserError, match="not saved statistics"):
            statistics.Statistics.from_json(text)


class Counted:
    """Trajectories that tell how often they were read."""

    def __init__(self, source):
        self.source, self.reads = source, 0

    def read(self, episode):
        self.reads += 1
        return self.source.read(episode)


@pytest.fixture
def counted(robot_episodes):
    source = Counted(robot_episodes.arrays["action"])
    return source, dataclasses.replace(robot_episodes, arrays={**robot_episodes.arrays, "action": source})


def test_cached_statistics_are_read_once(counted, tmp_path):
    source, episodes = counted
    first = statistics.cached(episodes, cache=str(tmp_path))
    assert source.reads == len(episodes)
    assert first.to_json() == statistics.compute(episodes["action"]).to_json()
    source.reads = 0
    assert statistics.cached(episodes, cache=str(tmp_path)).to_json() == first.to_json()
    other = statistics.cached(episodes, scheme="gaussian", cache=str(tmp_path), unscaled=[1])
    assert source.reads == 0
    assert other.to_json() == statistics.compute(episodes["action"], "gaussian", [1]).to_json()


def test_cached_statistics_are_those_of_these_contents(counted, tmp_path):
    source, episodes = counted
    statistics.cached(episodes, cache=str(tmp_path))
    for changed, array in (
        (dataclasses.replace(episodes, fingerprint="another"), "action"),
        (episodes.chosen([0], "0:1"), "action"),
        (episodes, "effector"),
    ):
        found = statistics.cached(changed, array, cache=str(tmp_path))
        assert found.to_json() == statistics.compute(changed[array]).to_json()
    assert len(list((tmp_path / "data" / "statistics").iterdir())) == 4


@pytest.mark.parametrize("damage", ["", "{}", "[1]", "digit", "half", "binary"])
def test_a_damaged_cache_is_made_anew(damage, counted, tmp_path, caplog):
    source, episodes = counted
    first = statistics.cached(episodes, cache=str(tmp_path))
    (path,) = (tmp_path / "data" / "statistics").iterdir()
    text = path.read_text()
    count = f'"count": {first.count}'
    assert count in text
    damaged = {"digit": text.replace(count, count[:-1] + "9"), "half": text[: len(text) // 2]}
    path.write_bytes(b"\xff\xfe" if damage == "binary" else damaged.get(damage, damage).encode())
    source.reads = 0
    assert statistics.cached(episodes, cache=str(tmp_path)).to_json() == first.to_json()
    assert source.reads == len(episodes) and "damaged" in caplog.text
    assert path.read_text() == text


def test_errors_of_cached_statistics_name_the_dataset(robot_episodes, video_episodes, tmp_path):
    class Broken:
        def read(self, episode):
            return np.full((3, 2), np.nan, np.float32)

    broken = dataclasses.replace(robot_episodes, arrays={"action": Broken()})
    with pytest.raises(errors.UserError, match="tabletop: action: 9 of 9 actions are not finite"):
        statistics.cached(broken, cache=str(tmp_path))
    with pytest.raises(errors.UserError, match="video view has no 'action'"):
        statistics.cached(video_episodes, cache=str(tmp_path))
    with pytest.raises(errors.UserError, match="'minmax'"):
        statistics.cached(robot_episodes, scheme="minmax", cache=str(tmp_path))
    assert not (tmp_path / "data").exists()


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(robot_episodes, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    found = statistics.cached(robot_episodes, cache=str(tmp_path / "file"))
    assert found.count == robot_episodes.num_frames and "not kept" in caplog.text
