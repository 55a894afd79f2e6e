"""Moments in 16 and 8 bits: close to what they were, right on average, never zero where they must not be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import moments

SHAPE = (32, 256)


def pair(spread=2.0, seed=0):
    """m and v over several orders of magnitude."""
    random = np.random.default_rng(seed)
    m = random.normal(size=SHAPE) * np.exp(spread * random.normal(size=SHAPE)) * 1e-4
    return np.float32(m), np.float32(np.square(random.normal(size=SHAPE) * 1e-4) + 1e-14)


def stored(name, m, v, seed=0):
    words = jax.random.bits(jax.random.key(seed), (2, 2))
    return moments.FORMATS[name].write(jnp.asarray(m), jnp.asarray(v), words, 0)


def back(name, m, v, seed=0):
    return [np.asarray(x, np.float64) for x in moments.FORMATS[name].read(stored(name, m, v, seed))]


@pytest.mark.parametrize("name, near", [("float32", 0.0), ("bfloat16", 2**-7), ("float8", 2**-3)])
def test_they_come_back_nearly(name, near):
    """Within the distance to a neighbour; of v in 8 bits, whose root is kept, twice that."""
    (m, v), found = pair(), back(name, *pair())
    for x, y, times in zip((m, v), found, (1, 2.2 if name == "float8" else 1), strict=True):
        peak = np.abs(x).reshape(32, -1, 64).max(-1).repeat(64, -1)
        assert np.all(np.abs(y - x) <= times * near * np.abs(x) + (2**-16 * peak if near == 2**-3 else 0))


@pytest.mark.parametrize("name", ["bfloat16", "float8"])
def test_they_are_right_on_average(name):
    (m, v), runs = pair(spread=0.5), 400
    found = np.mean([back(name, m, v, seed) for seed in range(runs)], axis=0)
    gap = {"bfloat16": 2**-7, "float8": 2**-3}[name]
    for x, y, floor in zip((m, v), found, (2e-9, 1e-13), strict=True):
        error = (y - x) / (np.abs(x) + floor)
        assert abs(error.mean()) < gap / 500 and np.abs(error).max() < gap / 4


@pytest.mark.parametrize("name", ["bfloat16", "float8"])
def test_both_have_noise_of_their_own(name):
    m, v = np.full(SHAPE, 1.0 + 2**-10, np.float32), np.full(SHAPE, 1.0 + 2**-10, np.float32)
    up = [x > 1.001 for x in back(name, m, v)]
    assert all(0.001 < x.mean() < 0.5 for x in up) and abs(np.corrcoef(up[0].ravel(), up[1].ravel())[0, 1]) < 0.05


def test_an_outlier_stays_in_its_block():
    m, v = (np.full((1, 128), x, np.float32) for x in (1e-3, 1e-6))
    m[0, 3], v[0, 3] = 1e5, 1e10
    found = back("float8", m, v)
    np.testing.assert_allclose(found[0][0, 64:], 1e-3, rtol=0.13)
    np.testing.assert_allclose(found[1][0, 64:], 1e-6, rtol=0.27)
    np.testing.assert_allclose([found[0][0, 3], found[1][0, 3]], [1e5, 1e10], rtol=0.27)
    assert np.all(found[1][0, :64] > 0)  # tiny beside the outlier, and still nothing to divide by zero


@pytest.mark.parametrize("scale", [1e-18, 1e-8, 1.0, 1e8])
def test_v_is_zero_only_where_it_is(scale):
    v = np.float32(np.logspace(-30, 0, 256)[None] * scale)
    v[0, 200] = 0.0
    found = back("float8", v, v)[1]
    assert np.all((found > 0) == (v > 1.2e-38)) and np.all(np.isfinite(found))


def test_what_is_on_the_grid_stays_when_the_scale_of_its_block_changes():
    """Else it would be rounded anew, at random, whenever another one in its block grows."""
    m, v = back("float8", *pair(spread=0.5))
    same = np.arange(256) % 64 != 0
    for factor in (1.9, 7.3, 30.0):
        larger = [np.where(same, x, x.max() * grown) for x, grown in ((m, factor), (v, factor**2))]
        found = back("float8", *map(np.float32, larger), seed=5)
        kept = [np.mean(x[:, same] == y[:, same]) for x, y in zip((m, v), found, strict=True)]
        assert min(kept) > 0.99  # all but what has fallen below the smallest step


@pytest.mark.parametrize(
    "width, block", [(4096, 64), (11008, 64), (96, 48), (100, 50), (48, 48), (8, 8), (1009, 1009), (1, 1)]
)
def test_blocks_tile_the_last_axis(width, block):
    assert moments.block(width) == block and width % block == 0


def test_bytes_and_shapes():
    m, v = pair()
    for name, size in (("float32", 8), ("bfloat16", 4), ("float8", 2 + 2 / 64)):
        own = stored(name, m, v)
        assert own.mu.shape == own.nu.shape == SHAPE
        assert sum(x.nbytes for x in own if x is not None) == size * m.size
        assert moments.format_of(own) is moments.FORMATS[name]
    assert own.mu_exponent.shape == (32, 4)


def test_nothing_is_stored_as_nothing():
    zeros = np.zeros(SHAPE, np.float32)
    for name in moments.FORMATS:
        assert not np.any(back(name, zeros, zeros))
