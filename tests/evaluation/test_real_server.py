"""Closed loop through the project's own server: what a policy does there is what it does here."""

import dataclasses

import fake_world
import policies
import pytest
import test_closed_loop

from lapa_jax import errors
from lapa_jax.evaluation import rollouts

servers = pytest.importorskip("servers", reason="the server is not installed (extra [serve])")  # tests/serving

ABOUT = {"head": "fake", "horizon": 3, "action_dim": 2, "image_size": 16, "history": 0, "num_codes": 99,
         "action_space": None, "normalisation": {}, "checkpoint": "abc"}  # fmt: skip


@pytest.fixture
def serve():
    """policy -> its server."""
    running = []

    def start(policy):
        policy.metadata = ABOUT | policy.metadata
        running.append(servers.Running(policy).until_ready())
        policy.sizes.clear()  # those of warming up
        return running[-1]

    yield start
    for one in running:
        one.end()


@pytest.mark.parametrize("kind", [fake_world.Walker, test_closed_loop.Rememberer])
def test_a_served_policy_plays_as_it_does_here(kind, serve):
    """Images, words, proprio and remembered latents arrive; rows of a batch are asked for together."""
    server = serve(kind())
    with policies.opened(server.uri) as policy:
        found = test_closed_loop.play(rollouts.trained("p", policy, full=False), size=5)
    here = test_closed_loop.play(rollouts.trained("p", kind()), size=5)
    assert {k: dataclasses.replace(v, film=None) for k, v in found.items()} == here
    assert max(server.policy.sizes) > 1 and policies.origin(server.uri) == "checkpoint abc"


def test_what_the_server_says_is_told(serve):
    server = serve(fake_world.Walker())
    with policies.opened(server.uri) as policy, pytest.raises(errors.UserError, match=f"{server.uri}: .*image"):
        policy.infer({"instruction": "go to 1.0"})
