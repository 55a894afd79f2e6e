"""Quantisers: which codes come out, what a decoder reads, and what flows back."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.models import quantizers
from lapa_jax.models.quantizers import codebook as codebook_lib
from lapa_jax.models.quantizers import fsq, nsvq, whiten


def FSQ(levels, **args):
    return quantizers.FSQ(int(np.prod(levels)), len(levels), levels, **args)


LEVELS = [(2, 2, 2), (8,), (3, 4), (5, 3, 2)]


def gaussian(rows=4000, dim=3, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 1, dim)).astype(np.float32)


def mixing(dim=3):
    return np.random.default_rng(1).normal(size=(dim, dim)).astype(np.float32)


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_codewords_are_inverse(levels):
    codes = np.arange(np.prod(levels))
    codewords = np.asarray(fsq.fsq_codewords(jnp.asarray(codes), levels))
    assert codewords.shape == (len(codes), len(levels))
    assert codewords.min() == -1.0 and codewords.max() == 1.0
    assert len(np.unique(codewords, axis=0)) == len(codes)
    # The middle of the cell that a codeword stands for, as a standard normal value.
    digits = (codewords + 1) * (np.array(levels) - 1) / 2
    middle = jax.scipy.stats.norm.ppf((digits + 0.5) / np.array(levels))
    np.testing.assert_array_equal(fsq.fsq_codes(middle, levels), codes)


def test_codes_stay_in_range_far_from_the_middle():
    corners = np.array(list(itertools.product([-1e4, 1e4], repeat=2)), np.float32)
    np.testing.assert_array_equal(fsq.fsq_codes(corners, (3, 4)), [0, 9, 2, 11])


def train_once(module, z, key=0):
    variables = module.init({"params": jax.random.key(0), "noise": jax.random.key(1)}, z, train=False)
    out, new = module.apply(
        variables, z, train=True, mutable=["batch_stats"], rngs={"noise": jax.random.key(key)}
    )
    return out.codewords, out.codes, new


@pytest.mark.parametrize("offset, scale", [(0.0, 1.0), (50.0, 1.0), (-3.0, 1e3), (7.0, 1e-3)])
@pytest.mark.parametrize("levels", [(2, 2, 2), (3, 4, 2)])
def test_all_codes_are_used_evenly_wherever_the_encoder_drifts(levels, offset, scale):
    z = offset + scale * gaussian() @ mixing()
    codewords, codes, _ = train_once(FSQ(levels), z)
    usage = np.bincount(np.ravel(codes), minlength=np.prod(levels)) / codes.size
    np.testing.assert_allclose(usage, 1 / np.prod(levels), rtol=0.25)
    np.testing.assert_allclose(codewords, fsq.fsq_codewords(codes, levels), atol=1e-6)


def test_statistics_of_training_serve_at_inference():
    module, z = FSQ((2, 2, 2)), 5.0 + 3.0 * gaussian() @ mixing()
    _, codes, new = train_once(module, z)
    stats = new["batch_stats"]["whiten"]
    np.testing.assert_allclose(stats["mean"], z.reshape(-1, 3).mean(0), rtol=1e-3)
    np.testing.assert_allclose(stats["cov"], np.cov(z.reshape(-1, 3).T, bias=True), rtol=1e-3)
    assert stats["count"] == 1
    served = module.apply(new, z).codes
    assert np.mean(np.asarray(served) == np.asarray(codes)) > 0.999
    one_by_one = np.stack([module.apply(new, z[i : i + 1]).codes[0] for i in range(3)])
    np.testing.assert_array_equal(one_by_one, served[:3])


def test_running_mean_is_exact_first_and_exponential_later():
    module = whiten.Whiten(momentum=0.5)
    batches = [gaussian(200, seed=i) + i for i in range(3)]
    variables, means = {}, [b.reshape(-1, 3).mean(0) for b in batches]
    for z in batches:
        _, variables = module.apply(variables, z, True, mutable=["batch_stats"])
    expected = 0.5 * (0.5 * means[0] + 0.5 * means[1]) + 0.5 * means[2]
    np.testing.assert_allclose(variables["batch_stats"]["mean"], expected, rtol=1e-4)


def test_inference_changes_no_statistics():
    module, z = FSQ((2, 2, 2)), gaussian(50)
    variables = module.init(jax.random.key(0), z)
    _, new = module.apply(variables, z, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, new, dict(variables))


def test_gradients_are_finite_when_the_encoder_says_the_same_for_all():
    module = FSQ((2, 2, 2))
    variables = module.init(jax.random.key(0), jnp.zeros((8, 1, 3)))

    def loss_fn(z):
        out, _ = module.apply(variables, z, train=True, mutable=["batch_stats"])
        return jnp.sum(out.codewords**2)

    assert np.isfinite(jax.grad(loss_fn)(jnp.full((8, 1, 3), 2.5))).all()


def test_quantisation_is_phased_in_row_by_row():
    module, z = FSQ((2, 2, 2), soft_steps=4), gaussian(400)
    variables, shares = module.init(jax.random.key(0), z), []
    for step in range(6):
        rngs = {"noise": jax.random.key(step)}
        out, new = module.apply(variables, z, train=True, mutable=["batch_stats"], rngs=rngs)
        variables = {**variables, **new}
        hard = np.abs(out.codewords - fsq.fsq_codewords(out.codes, (2, 2, 2))).max(axis=(1, 2)) < 1e-5
        shares.append(hard.mean())
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0], atol=0.1)
    assert shares[3:] == [1.0, 1.0, 1.0]
    served = module.apply(module.init(jax.random.key(0), z), z, train=False)
    np.testing.assert_allclose(served.codewords, fsq.fsq_codewords(served.codes, (2, 2, 2)), atol=1e-6)


def test_gradients_of_nsvq_are_finite_where_z_lies_on_a_codeword():
    """As with pairs of equal frames, from which dead codes were restarted."""
    z, noise = jnp.array([[0.0, 0.0], [1.0, 2.0]]), jnp.ones((2, 2))
    hard = jnp.zeros((2, 2))
    grads = jax.grad(lambda z, hard: jnp.sum(nsvq.substitute(z, hard, noise)), argnums=(0, 1))(z, hard)
    np.testing.assert_array_equal(grads[0][0], 1.0)
    np.testing.assert_array_equal(grads[1][0], 0.0)
    np.testing.assert_allclose(grads[1][1], -z[1] / np.sqrt(5.0) * np.sqrt(2.0), rtol=1e-6)


@pytest.mark.parametrize("name", ["nsvq", "nsvq_official"])
def test_noise_of_nsvq_is_as_long_as_the_error_it_stands_for(name):
    module, z = quantizers.QUANTIZERS[name](8, 3), 2.0 * gaussian(100)
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    variables = module.init(rngs, z)
    served = module.apply(variables, z)
    rows = np.asarray(variables["params"]["codebook"])
    distance = np.linalg.norm(z[:, :, None] - rows, axis=-1)
    np.testing.assert_array_equal(served.codes, distance.argmin(-1))
    np.testing.assert_array_equal(served.codewords, rows[np.asarray(served.codes)])
    noisy = module.apply(variables, z, train=True, rngs=rngs)
    other = module.apply(variables, z, train=True, rngs={"noise": jax.random.key(2)})
    np.testing.assert_array_equal(noisy.codes, served.codes)
    np.testing.assert_allclose(np.linalg.norm(noisy.codewords - z, axis=-1), distance.min(-1), rtol=1e-4)
    assert np.abs(noisy.codewords - other.codewords).max() > 1e-2


MODULES = {
    "fsq": FSQ((2, 2, 2)),
    "kl": quantizers.KL(8, 3),
    **{name: quantizers.QUANTIZERS[name](8, 3) for name in ("nsvq", "nsvq_official", "vq", "vq_ema")},
}


@pytest.mark.parametrize("name", MODULES)
def test_gradients_reach_z_and_every_parameter(name):
    module, z = MODULES[name], gaussian(64)
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    variables = module.init(rngs, z)
    target = gaussian(64, seed=3)

    def loss_fn(z, params):
        out, _ = module.apply({**variables, "params": params}, z, train=True, mutable=["batch_stats"], rngs=rngs)
        return jnp.mean(jnp.square(out.codewords - target)) + out.loss

    to_z, to_params = jax.grad(loss_fn, argnums=(0, 1))(z, variables.get("params", {}))
    assert np.isfinite(to_z).all() and (np.abs(to_z).max(axis=(1, 2)) > 0).mean() > 0.95
    for grad in jax.tree.leaves(to_params):
        assert np.isfinite(grad).all() and np.any(grad)


def test_straight_through_hands_the_gradient_on_as_it_is():
    module, z = quantizers.VQ(8, 3, commitment=0.0, whiten=False), gaussian(16)
    variables = module.init(jax.random.key(0), z)
    weight = gaussian(16, seed=5)
    rngs = {"noise": jax.random.key(0)}

    def loss_fn(z):
        out, _ = module.apply(variables, z, train=True, mutable=["codebook"], rngs=rngs)
        return jnp.sum(out.codewords * weight)

    np.testing.assert_allclose(jax.grad(loss_fn)(z), weight, rtol=1e-6)


def test_rows_of_moving_averages_become_the_means_of_their_cluster():
    centres = np.float32([[5, 0], [-5, 0], [0, 5], [0, -5]])
    module = quantizers.EMAVQ(4, 2, whiten=False, decay=0.5)
    train = Trainer(module, centres[:, None])
    for step in range(30):
        noise = np.random.default_rng(step).normal(0, 0.1, (64, 1, 2)).astype(np.float32)
        train(np.repeat(centres, 16, axis=0)[:, None] + noise)
    rows = np.asarray(train.variables["codebook"]["codewords"])
    nearest = np.linalg.norm(rows[:, None] - centres, axis=-1)
    assert sorted(nearest.argmin(1)) == [0, 1, 2, 3] and nearest.min(1).max() < 0.1


def test_divergence_of_the_continuous_bottleneck_is_that_of_two_gaussians():
    module, z = quantizers.KL(8, 3, beta=0.5), gaussian(50)
    variables = module.init(jax.random.key(0), z)
    variables["params"]["dense_spread"]["bias"] = jnp.log(jnp.float32([0.5, 1.0, 2.0]))
    out = module.apply(variables, z, train=True, rngs={"noise": jax.random.key(1)})
    std = np.array([0.5, 1.0, 2.0])
    expected = (np.log(1 / std) + (std**2 + z**2) / 2 - 0.5).sum(-1).mean()
    np.testing.assert_allclose(out.loss, 0.5 * expected, rtol=1e-5)
    assert out.codes is None
    np.testing.assert_allclose((out.codewords - z).std(axis=(0, 1)), std, rtol=0.35)
    np.testing.assert_array_equal(module.apply(variables, z).codewords, z)


class Trainer:
    """A quantiser by itself: one look at the data and one maintenance a call; no gradient."""

    def __init__(self, module, z):
        self.module, self.step = module, 0
        self.variables = module.init({"params": jax.random.key(0), "noise": jax.random.key(0)}, z)

    def __call__(self, z):
        rngs = {"noise": jax.random.key(self.step)}
        out, new = self.module.apply(self.variables, z, train=True, mutable=["batch_stats", "codebook"], rngs=rngs)
        state = {**self.variables, **new}
        _, new = self.module.apply(state, method="maintain", mutable=True, rngs=rngs)
        self.variables, self.step = {**state, **new}, self.step + 1
        return np.asarray(out.codes)

    def used(self, z):
        return len(np.unique(self.module.apply(self.variables, z).codes))


LEARNED = {"nsvq": {}, "vq": dict(whiten=False), "vq_ema": dict(whiten=False)}


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("revive", ["data", "none"])
def test_a_collapsed_codebook_recovers_where_it_may(name, revive):
    """The state that official LAQs are found in: all pairs share an offset, one row wins them all."""
    module = quantizers.QUANTIZERS[name](8, 3, revive=revive, **LEARNED[name])
    z = (gaussian(64) + 40.0).astype(np.float32)
    train = Trainer(module, z)
    where = ("codebook", "codewords") if name == "vq_ema" else ("params", "codebook")
    rows = 100.0 * np.eye(8, 3, dtype=np.float32) - 300.0
    rows[5] = 40.0
    train.variables[where[0]][where[1]] = jnp.asarray(rows)
    train.variables["codebook"]["steps"] = jnp.float32(1000)  # long past the first step
    assert train.used(z) == 1
    for _ in range(6):
        train(z)
    assert train.used(z) == (8 if revive == "data" else 1)
    assert (train.variables["codebook"]["revived"] > 0) == (revive == "data")


def test_the_first_step_puts_the_codebook_where_the_data_is():
    z = (0.01 * gaussian(64) + 5.0).astype(np.float32)
    train = Trainer(quantizers.NSVQ(8, 3), z)
    assert train.used(z) < 4
    train(z)
    assert train.used(z) >= 7


def test_so_does_the_first_step_of_accumulated_gradients():
    """Few rows, so that only the rule of the first step looks at the codes."""
    z = (0.01 * gaussian(24) + 5.0).astype(np.float32)
    module, rngs = quantizers.NSVQ(8, 3), {"noise": jax.random.key(0)}
    state = module.init({"params": jax.random.key(0), **rngs}, z)
    for part in np.split(z, 2):
        _, new = module.apply(state, part, train=True, mutable=["codebook"], rngs=rngs)
        state |= new
    revived = [module.apply(state, batches, method="maintain", mutable=True)[1] for batches in (1, 2)]
    assert [float(new["codebook"]["revived"]) > 0 for new in revived] == [False, True]


def test_codes_in_use_are_left_alone():
    rows, counts = gaussian(8)[:, 0], np.float32([100, 100, 100, 100, 100, 100, 100, 3])
    fresh = 9.0 + gaussian(8, seed=1)[:, 0]
    new, dead = codebook_lib.restart(rows, counts, fresh, threshold=0.1)
    np.testing.assert_array_equal(dead, [False] * 7 + [True])
    np.testing.assert_array_equal(new, [*rows[:7], fresh[0]])


def test_new_rows_are_far_from_the_codebook_and_differ():
    rows = np.float32([[0, 0]] * 50 + [[10, 0], [0, 10], [10, 10]])
    picked = np.asarray(codebook_lib.far_rows(rows, np.zeros((2, 2), np.float32), 3, jax.random.key(0)))
    assert {tuple(r) for r in picked} == {(10, 0), (0, 10), (10, 10)}
    assert codebook_lib.far_rows(rows[:2], rows, 5, jax.random.key(0)).shape == (5, 2)  # fewer rows than codes


def test_official_replacement_happens_when_it_did():
    fired = [step for step in range(6000) if bool(nsvq.official_steps(jnp.int32(step)))]
    assert fired == [*range(10, 100, 10), *range(100, 1000, 100), *range(1000, 5000, 500)]


@pytest.mark.parametrize("used, expected", [([0, 9, 0, 9, 9, 9, 9, 9], 2), ([0, 0, 0, 9, 0, 0, 0, 9], 6)])
def test_official_order_is_a_permutation_of_what_is_read(used, expected):
    order = nsvq.random_order(jax.random.key(0), jnp.asarray(used), 9)
    assert sorted(np.asarray(order).tolist()) == list(range(8))
    alive = 8 - expected
    if alive < expected:
        read = -(-expected // alive) * alive
        assert sorted(np.asarray(order)[:read].tolist()) == list(range(read))


def test_unknown_cures_are_refused():
    with pytest.raises(errors.UserError, match="revive 'prayer'"):
        quantizers.NSVQ(8, 3, revive="prayer").init(jax.random.key(0), gaussian(4))


@pytest.mark.parametrize("rows", [codebook_lib.LARGE - 1, codebook_lib.LARGE, 1000])
def test_distances_to_codebooks_of_any_size(rows):
    """Small and large ones are measured in two ways; both are squared distances, and ties go to the lowest row."""
    random = np.random.default_rng(0)
    z, codebook = (random.normal(size=shape).astype(np.float32) for shape in ((4, 5, 8), (rows, 8)))
    expected = np.sum(np.square(z[..., None, :].astype(np.float64) - codebook), axis=-1)
    np.testing.assert_allclose(codebook_lib.squared_distance(z, codebook), expected, atol=1e-4)
    np.testing.assert_array_equal(codebook_lib.nearest(z, codebook), expected.argmin(axis=-1))
    twice = np.concatenate([codebook, codebook])
    np.testing.assert_array_equal(codebook_lib.nearest(z, twice), expected.argmin(axis=-1))
