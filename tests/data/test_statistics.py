"""Normalisation and its inverse."""

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import statistics

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
