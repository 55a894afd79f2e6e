"""Quantisers: which codes come out, what a decoder reads, and what flows back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax.models import quantize

LEVELS = [(2, 2, 2), (8,), (3, 4), (5, 3, 2)]


def gaussian(rows=4000, dim=3, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 1, dim)).astype(np.float32)


def mixing(dim=3):
    return np.random.default_rng(1).normal(size=(dim, dim)).astype(np.float32)


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_codewords_are_inverse(levels):
    codes = np.arange(np.prod(levels))
    codewords = np.asarray(quantize.fsq_codewords(jnp.asarray(codes), levels))
    assert codewords.shape == (len(codes), len(levels))
    assert codewords.min() == -1.0 and codewords.max() == 1.0
    assert len(np.unique(codewords, axis=0)) == len(codes)
    # The middle of the cell that a codeword stands for, as a standard normal value.
    digits = (codewords + 1) * (np.array(levels) - 1) / 2
    middle = jax.scipy.stats.norm.ppf((digits + 0.5) / np.array(levels))
    np.testing.assert_array_equal(quantize.fsq_codes(middle, levels), codes)


def test_codes_stay_in_range_far_from_the_middle():
    corners = np.array(list(itertools.product([-1e4, 1e4], repeat=2)), np.float32)
    np.testing.assert_array_equal(quantize.fsq_codes(corners, (3, 4)), [0, 9, 2, 11])


def train_once(module, z, key=0):
    variables = module.init({"params": jax.random.key(0), "noise": jax.random.key(1)}, z, train=False)
    out, new = module.apply(
        variables, z, train=True, mutable=["batch_stats"], rngs={"noise": jax.random.key(key)}
    )
    return *out, new


@pytest.mark.parametrize("offset, scale", [(0.0, 1.0), (50.0, 1.0), (-3.0, 1e3), (7.0, 1e-3)])
@pytest.mark.parametrize("levels", [(2, 2, 2), (3, 4, 2)])
def test_all_codes_are_used_evenly_wherever_the_encoder_drifts(levels, offset, scale):
    z = offset + scale * gaussian() @ mixing()
    codewords, codes, _ = train_once(quantize.FSQ(levels), z)
    usage = np.bincount(np.ravel(codes), minlength=np.prod(levels)) / codes.size
    np.testing.assert_allclose(usage, 1 / np.prod(levels), rtol=0.25)
    np.testing.assert_allclose(codewords, quantize.fsq_codewords(codes, levels), atol=1e-6)


def test_statistics_of_training_serve_at_inference():
    module, z = quantize.FSQ((2, 2, 2)), 5.0 + 3.0 * gaussian() @ mixing()
    _, codes, new = train_once(module, z)
    stats = new["batch_stats"]["whiten"]
    np.testing.assert_allclose(stats["mean"], z.reshape(-1, 3).mean(0), rtol=1e-3)
    np.testing.assert_allclose(stats["cov"], np.cov(z.reshape(-1, 3).T, bias=True), rtol=1e-3)
    assert stats["count"] == 1
    _, served = module.apply(new, z)
    assert np.mean(np.asarray(served) == np.asarray(codes)) > 0.999
    one_by_one = np.stack([module.apply(new, z[i : i + 1])[1][0] for i in range(3)])
    np.testing.assert_array_equal(one_by_one, served[:3])


def test_running_mean_is_exact_first_and_exponential_later():
    module = quantize.Whiten(momentum=0.5)
    batches = [gaussian(200, seed=i) + i for i in range(3)]
    variables, means = {}, [b.reshape(-1, 3).mean(0) for b in batches]
    for z in batches:
        _, variables = module.apply(variables, z, True, mutable=["batch_stats"])
    expected = 0.5 * (0.5 * means[0] + 0.5 * means[1]) + 0.5 * means[2]
    np.testing.assert_allclose(variables["batch_stats"]["mean"], expected, rtol=1e-4)


def test_inference_changes_no_statistics():
    module, z = quantize.FSQ((2, 2, 2)), gaussian(50)
    variables = module.init(jax.random.key(0), z)
    _, new = module.apply(variables, z, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, new, dict(variables))


@pytest.mark.parametrize("module", [quantize.FSQ((2, 2, 2)), quantize.NSVQ(8, 3)], ids=["fsq", "nsvq"])
def test_gradients_reach_z(module):
    z = gaussian(64)
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    variables = module.init(rngs, z)
    target = gaussian(64, seed=3)

    def loss_fn(z, params):
        out, _ = module.apply(
            {**variables, "params": params}, z, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return jnp.mean(jnp.square(out[0] - target))

    to_z, to_params = jax.grad(loss_fn, argnums=(0, 1))(z, variables.get("params", {}))
    assert np.isfinite(to_z).all() and (np.abs(to_z).max(axis=(1, 2)) > 0).mean() > 0.95
    for grad in jax.tree.leaves(to_params):  # the codebook of NSVQ learns through the noise's length
        assert np.isfinite(grad).all() and np.any(grad)


def test_gradients_are_finite_when_the_encoder_says_the_same_for_all():
    module = quantize.FSQ((2, 2, 2))
    variables = module.init(jax.random.key(0), jnp.zeros((8, 1, 3)))

    def loss_fn(z):
        (codewords, _), _ = module.apply(variables, z, train=True, mutable=["batch_stats"])
        return jnp.sum(codewords**2)

    assert np.isfinite(jax.grad(loss_fn)(jnp.full((8, 1, 3), 2.5))).all()


def test_quantisation_is_phased_in_row_by_row():
    module, z = quantize.FSQ((2, 2, 2), soft_steps=4), gaussian(400)
    variables, shares = module.init(jax.random.key(0), z), []
    for step in range(6):
        rngs = {"noise": jax.random.key(step)}
        (codewords, codes), new = module.apply(variables, z, train=True, mutable=["batch_stats"], rngs=rngs)
        variables = {**variables, **new}
        hard = np.abs(codewords - quantize.fsq_codewords(codes, (2, 2, 2))).max(axis=(1, 2)) < 1e-5
        shares.append(hard.mean())
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0], atol=0.1)
    assert shares[3:] == [1.0, 1.0, 1.0]
    served, codes = module.apply(module.init(jax.random.key(0), z), z, train=False)
    np.testing.assert_allclose(served, quantize.fsq_codewords(codes, (2, 2, 2)), atol=1e-6)


def test_noise_of_nsvq_is_as_long_as_the_error_it_stands_for():
    module, z = quantize.NSVQ(8, 3), 2.0 * gaussian(100)
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    variables = module.init(rngs, z)
    hard, codes = module.apply(variables, z)
    codebook = np.asarray(variables["params"]["codebook"])
    distance = np.linalg.norm(z[:, :, None] - codebook, axis=-1)
    np.testing.assert_array_equal(codes, distance.argmin(-1))
    np.testing.assert_array_equal(hard, codebook[np.asarray(codes)])
    noisy, train_codes = module.apply(variables, z, train=True, rngs=rngs)
    other, _ = module.apply(variables, z, train=True, rngs={"noise": jax.random.key(2)})
    np.testing.assert_array_equal(train_codes, codes)
    np.testing.assert_allclose(np.linalg.norm(noisy - z, axis=-1), distance.min(-1), rtol=1e-4)
    assert np.abs(noisy - other).max() > 1e-2
