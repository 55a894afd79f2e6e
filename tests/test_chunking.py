"""Which actions of predicted chunks are carried out."""

import numpy as np
import pytest

from lapa_jax import chunking, errors


def chunks(count, horizon=3, batch=2, dim=2):
    return np.random.default_rng(0).normal(size=(count, batch, horizon, dim)).astype(np.float32)


@pytest.mark.parametrize("execute", [1, 2, 3])
def test_receding_horizon_carries_out_the_first_actions_in_order(execute):
    (chunk,) = chunks(1)
    found = chunking.make(execute).next(chunk)
    assert len(found) == execute
    for t, actions in enumerate(found):
        np.testing.assert_array_equal(actions, chunk[:, t])


def test_nothing_to_carry_out_is_refused():
    with pytest.raises(errors.UserError, match="execute=9, and chunks of 3"):
        chunking.make(9).next(np.zeros((2, 3, 1)))
    with pytest.raises(errors.UserError, match="execute=0"):
        chunking.make(0)


@pytest.mark.parametrize("decay", [0.0, 0.01, 1.5, -0.7])
def test_an_ensemble_is_the_weighted_mean_of_what_was_said_about_each_step(decay):
    said, plan = chunks(6), chunking.make(2, decay)
    for now in range(6):
        (found,) = plan.next(said[now])
        about = [(then, said[then][:, now - then]) for then in range(6) if 0 <= now - then < 3]  # oldest first
        weights = np.exp(-decay * np.arange(len(about)))
        expected = sum(w * one for w, (_, one) in zip(weights, about, strict=True)) / weights.sum()
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert found.dtype == np.float32


def test_chunks_that_agree_are_carried_out_as_they_are():
    path = np.arange(9, dtype=np.float32)
    plan = chunking.Ensembling(0.3)
    for now in range(6):
        (found,) = plan.next(path[None, now : now + 3, None])
        np.testing.assert_allclose(found, path[now], rtol=1e-6)


def test_large_decays_do_not_overflow():
    said, plan = chunks(3), chunking.Ensembling(-1e4)
    for one in said:
        (found,) = plan.next(one)
    np.testing.assert_allclose(found, said[-1][:, 0])
