"""How policies' chunks drive environments."""

import functools

import fake_tabletop
import numpy as np
import pytest

from lapa_jax import chunking
from lapa_jax.evaluation import rollouts


@pytest.fixture(autouse=True)
def environments(monkeypatch):
    class Env(fake_tabletop.FakeEnv):
        close = staticmethod(lambda: None)

    monkeypatch.setattr(rollouts.envs, "make", lambda name, families: Env("heldout", 8))


@pytest.mark.parametrize("execute, ensemble, steps_a_look", [(1, None, 1), (3, None, 3), (3, 0.01, 1)])
def test_a_policy_looks_as_often_as_it_is_told(execute, ensemble, steps_a_look):
    looks = []

    def act(pool, observations):
        looks.append([o["image"] for o in observations])
        return np.zeros((len(pool), 4, 2), np.float32)

    chunks = functools.partial(chunking.make, execute, ensemble)
    episodes = rollouts.run_family(act, "fake", "push", 2, chunks, batch_size=2)
    longest = max(one.length for one in episodes)
    assert len(episodes) == 2 and longest > 3
    assert len(looks) == -(-longest // steps_a_look)


def test_each_batch_begins_a_plan_of_its_own():
    """Nothing of earlier episodes is in an ensemble."""
    made = []

    def chunks():
        made.append(chunking.Ensembling(0.0))
        return made[-1]

    rollouts.run_family(lambda pool, _: np.zeros((len(pool), 4, 2)), "fake", "push", 3, chunks, batch_size=1)
    assert len(made) == 3
