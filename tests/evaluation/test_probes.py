import numpy as np
import pytest

from lapa_jax.errors import UserError
from lapa_jax.evaluation import probes


def _split(x, y, train=300):
    return x[:train], y[:train], x[train:], y[train:]


def test_probe_recovers_a_linear_map_with_offset_and_odd_units():
    rng = np.random.default_rng(0)
    x = rng.normal(5, 100, (500, 6))
    y = 1e-3 * x @ rng.normal(size=(6, 2)) + [7.0, -3.0]
    assert probes.linear_probe(*_split(x, y)) == pytest.approx([1, 1], abs=1e-3)


def test_probe_finds_nothing_in_noise():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4000, 8)), rng.normal(size=(4000, 2))
    r2 = probes.linear_probe(*_split(x, y, train=3000))
    assert r2.shape == (2,) and r2.dtype == np.float64
    assert np.abs(r2).max() < 0.03


def test_probe_scores_each_output_alone():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 3))
    y = np.stack([x[:, 0], rng.normal(size=500)], axis=1)
    known, unknown = probes.linear_probe(*_split(x, y))
    assert known > 0.99 and unknown < 0.1


def test_probe_matches_the_group_means_that_codes_can_give():
    rng = np.random.default_rng(3)
    codes, noise = rng.integers(0, 4, (2000, 1)), rng.normal(0, 0.5, (2000, 1))
    y = np.array([0.0, 3.0, -1.0, 1.0])[codes] + noise
    x = probes.one_hot(codes, 4)
    expected = 1 - noise[1000:].var() / y[1000:].var()
    assert probes.linear_probe(*_split(x, y, 1000)) == pytest.approx([expected], abs=0.01)


def test_probe_gives_nan_for_a_constant_output_and_survives_a_constant_input():
    x, y = np.ones((40, 1)), np.zeros((40, 1))
    assert np.isnan(probes.linear_probe(*_split(x, y, 20)))


def test_probe_refuses_rows_that_do_not_match():
    x, y = np.zeros((10, 2)), np.zeros((9, 2))
    with pytest.raises(UserError, match="training"):
        probes.linear_probe(x, y, x, y)
    with pytest.raises(UserError, match="hold out more"):
        probes.linear_probe(x, x, x[:1], x[:1])


def test_one_hot_has_one_block_per_position():
    rows = probes.one_hot(np.array([[0, 2], [1, 1]]), 3)
    assert rows.tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0]]
    with pytest.raises(UserError, match="outside 0..2"):
        probes.one_hot(np.array([[3]]), 3)


def test_frame_features_average_blocks():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1, :8, 8:16, 2] = 255
    features = probes.frame_features(images)
    assert features.shape == (2, 8 * 8 * 3)
    assert np.flatnonzero(features[1]).tolist() == [1 * 3 + 2] and features[1].max() == 1
    with pytest.raises(UserError, match="divide"):
        probes.frame_features(images, size=7)


def test_principal_components_are_fitted_on_the_training_rows():
    rng = np.random.default_rng(4)
    train, test = rng.normal(size=(200, 100)), rng.normal(size=(50, 100))
    train[:, 0] *= 30
    low_train, low_test = probes.principal_components(train, test, max_dims=64)
    assert low_train.shape == (200, 64) and low_test.shape == (50, 64)
    centred = test[:, 0] - train[:, 0].mean()
    assert abs(np.corrcoef(low_test[:, 0], centred)[0, 1]) > 0.9
    again, _ = probes.principal_components(train, 1e6 * test, max_dims=64)
    np.testing.assert_array_equal(again, low_train)
    few, _ = probes.principal_components(train[:5], test)
    assert few.shape[1] <= 4  # no direction without variance
