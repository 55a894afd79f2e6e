"""Stochastic rounding: to a neighbour, and to the number itself on average."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from lapa_jax import rounding

FLOAT8 = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
FLOAT8 = np.unique(FLOAT8[np.isfinite(FLOAT8)])


WORDS = jax.random.bits(jax.random.key(0), (3, 2))


def noise(*shape, seed=0, layer=0):
    return rounding.noise(WORDS[seed], shape, layer)


def test_noise_is_even_and_differs_from_place_to_place_and_key_to_key():
    low, high, other = (
        np.asarray(bits & 0xFFFF, np.float64) / 2**16
        for bits in (noise(500, 400), noise(500, 400) >> 16, noise(500, 400, seed=1))
    )
    for x in (low, high):
        counts = np.histogram(x, bins=64, range=(0, 1))[0] / x.size * 64
        assert np.abs(counts - 1).max() < 0.1 and abs(x.mean() - 0.5) < 0.003
    pairs = [(low, high), (low, other), (low[1:], low[:-1]), (low[:, 1:], low[:, :-1])]
    layers = [np.asarray(noise(500, 400, layer=i) & 0xFFFF) for i in (0, 1, 2)]
    pairs += [(low, layer) for layer in layers[1:]] + [(layers[1], layers[2])]
    np.testing.assert_array_equal(np.stack(layers), noise(3, 500, 400) & 0xFFFF)  # a stack is one array
    assert max(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in pairs) < 0.01


def test_a_number_becomes_one_of_its_two_neighbours_and_itself_on_average():
    x = np.float32([1.0 + 2**-9, -3.1, 1e-3, 7e-30, 3e-38])
    found = np.asarray(rounding.to_bfloat16(jnp.broadcast_to(x, (20_000, 5)), noise(20_000, 5)), np.float64)
    gap = 2.0 ** (np.floor(np.log2(np.abs(x.astype(np.float64)))) - 7)
    for column in found.T:
        assert len(np.unique(column)) == 2
    assert np.all(np.abs(found - x) < gap) and np.all(np.abs(found.mean(0) - x) < 0.02 * gap)


def test_what_bfloat16_holds_stays_and_what_is_no_number_too():
    x = np.asarray(np.random.default_rng(0).normal(size=1000), jnp.bfloat16)
    np.testing.assert_array_equal(rounding.to_bfloat16(jnp.asarray(x, jnp.float32), noise(1000)), x)
    odd = np.asarray(rounding.to_bfloat16(jnp.float32([np.inf, -np.inf, np.nan, 0.0]), noise(4)), np.float32)
    np.testing.assert_array_equal(odd, [np.inf, -np.inf, np.nan, 0.0])


def float8(x, count=20_000, **how):
    x = jnp.broadcast_to(jnp.float32(x), (count, len(x)))
    return np.asarray(rounding.to_float8(x, noise(*x.shape), **how).astype(jnp.float32), np.float64)


X8 = np.float32([1.03, -3.1, 17.9, 440.0, 0.0157, 0.0021, -0.0007])
GAP8 = np.float64([1 / 8, 1 / 4, 2, 32, 2**-9, 2**-9, 2**-9])


def test_the_same_in_8_bits():
    found = float8(X8)
    for column, x in zip(found.T, X8, strict=True):
        after = np.searchsorted(FLOAT8, x)
        assert set(np.unique(column)) == {FLOAT8[after - 1], FLOAT8[after]}
    assert np.all(np.abs(found.mean(0) - X8) < 0.02 * GAP8)


def test_squares_stay_themselves_on_average_and_nothing_becomes_nothing():
    x = np.abs(X8)
    found = float8(x, squares=True)
    wide = x > 2**-9
    assert np.all(np.abs((found**2).mean(0) - x.astype(np.float64) ** 2)[wide] < (0.04 * GAP8 * x)[wide])
    plain = (float8(x[:2]) ** 2).mean(0)
    assert np.all(plain > x[:2].astype(np.float64) ** 2 + 0.1 * GAP8[:2] ** 2)
    np.testing.assert_array_equal(found[:, ~wide], 2**-9)
    tiny = float8([1e-30, 1e-6, 0.0], squares=True)
    assert set(np.unique(tiny[:, :2])) == {2**-9} and not tiny[:, 2].any()


def test_what_8_bits_hold_stays_and_the_largest_is_no_overflow():
    np.testing.assert_array_equal(float8(FLOAT8, count=50), np.broadcast_to(FLOAT8, (50, len(FLOAT8))))
    np.testing.assert_array_equal(float8(FLOAT8[FLOAT8 >= 0], count=50, squares=True)[7], FLOAT8[FLOAT8 >= 0])
    assert np.unique(float8([448.0, 447.9], count=100_000)).tolist() == [416.0, 448.0]


def test_bits_are_those_of_the_floats():
    for dtype, bits in ((jnp.bfloat16, "uint16"), (jnp.float8_e4m3fn, "uint8"), (jnp.float32, "float32")):
        x = jnp.float32([0.5, -1.75, 0.0]).astype(dtype)
        assert rounding.to_bits(x).dtype == bits and rounding.from_bits(rounding.to_bits(x)).dtype == dtype
        np.testing.assert_array_equal(rounding.read(rounding.to_bits(x)), [0.5, -1.75, 0.0])
    x = jnp.float32([1.001])
    assert rounding.write(x, jnp.float32, None) is x
    assert float(rounding.read(rounding.write(x, jnp.uint16, WORDS[0]))[0]) in (1.0, 1.0078125)
