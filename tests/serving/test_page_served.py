"""The page on the policy server: in line with other clients, behind its guard, gone when it ends."""

import contextlib
import threading
import time

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the server is not installed (extra [serve])")
pytest.importorskip("prometheus_client", reason="the server is not installed (extra [serve])")
pytest.importorskip("pybullet", reason="the tabletop needs the extra [tabletop]")

import fake_policy
import page_parts
import page_world
import servers
import websockets

from lapa_client import messages
from lapa_jax import errors
from lapa_jax.serving import page
from lapa_jax.serving.page import shared


class Policy(fake_policy.FakePolicy):
    """The server's own fake, with the tabletop's two numbers an action."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.metadata |= {"action_dim": 2, "action_space": {"names": ["x", "y"]}}

    def _infer(self, observation, seed):
        found = super()._infer(observation, seed)
        return found | {"actions": np.tanh(found["actions"][..., :2]) / 50}


@pytest.fixture
def serve():
    started = []

    def start(policy=None, wait=True, **changes):
        running = servers.Running(policy or Policy(), **changes)
        started.append(running)
        live = page.Live(shared.of_service(running.service), running.policy.metadata)
        running.app.router.routes.extend(page.routes(live))
        if wait:
            running.until_ready()
        return running, running.uri.removeprefix("ws://")

    yield start
    for one in started:
        one.end()


def test_a_page_waits_until_the_policy_is_warm(serve):
    running, address = serve(Policy(seconds=0.3), wait=False)
    for _ in range(500):
        with contextlib.suppress(ConnectionRefusedError):
            running.request("GET", "/healthz")
            break
        time.sleep(0.02)
    with page_world.Talk(address) as talk:
        talk.say(type="start")
        assert not running.service.ready.is_set()
        talk.hear("frame", step=1)
        assert running.service.ready.is_set()


def test_one_address_is_the_page_and_the_policy(serve):
    running, address = serve()
    status, headers, body = running.request("GET", "/")
    assert status == 200 and b"Live policy" in body
    with running.connect() as client, page_world.Talk(address) as talk:
        assert messages.unpack(client.recv())["horizon"] == 4
        talk.say(type="step")
        assert talk.hear("decision")["latents"] == [5, 6]
        talk.hear("frame", step=1)
        client.send(messages.pack({"image": fake_policy.image(), "instruction": "push"}))
        assert messages.unpack(client.recv())["actions"].shape == (4, 2)


def test_pages_share_calls_with_each_other(serve):
    running, address = serve(Policy(seconds=0.1))
    before = len(running.policy.batches)
    with page_world.Talk(address) as one, page_world.Talk(address) as two, page_world.Talk(address) as three:
        talks = (one, two, three)
        for talk in talks:
            talk.hear("frame", step=0)
        for talk in talks:
            talk.say(type="step")
        for talk in talks:
            talk.hear("frame", step=1)
    calls = running.policy.batches[before:]
    assert len(calls) < 3


@pytest.mark.parametrize(
    "words, sentence", [("refuse", "shorten the instruction"), ("crash", "ZeroDivisionError"), ("nan", "finite")]
)
def test_why_there_is_no_answer_is_said_at_the_page(serve, words, sentence):
    _, address = serve()
    with page_world.Talk(address) as talk:
        talk.say(type="instruction", text=words)
        talk.say(type="start")
        assert sentence in talk.hear("error")["text"]
        talk.say(type="instruction", text="go on")
        talk.say(type="step")
        talk.hear("frame", step=1)


def test_pages_of_other_sites_and_without_the_token_may_not_connect(serve):
    running, address = serve(token="sesame")
    assert running.request("GET", "/")[0] == 401
    headers = {"Authorization": "Bearer sesame"}
    with pytest.raises(websockets.InvalidStatus, match="401"):
        page_world.Talk(address)
    with pytest.raises(websockets.InvalidStatus, match="403"):
        page_world.Talk(address, origin="https://example.org", additional_headers=headers)
    with page_world.Talk(address, origin=f"http://{address}", additional_headers=headers) as talk:
        talk.hear("welcome")


def test_a_server_ends_while_a_page_is_driving(serve):
    running, address = serve(Policy(seconds=0.05))
    with page_world.Talk(address) as talk:
        talk.say(type="start")
        talk.hear("frame", step=2)
        clock = time.perf_counter()
        running.end()
        assert time.perf_counter() - clock < 15
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                talk.hear("frame")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("page") and thread.is_alive()]


@pytest.mark.parametrize(
    "text, found",
    [(None, None), ("{}", {}), ('{"split": "video", "max_steps": 9}', {"split": "video", "max_steps": 9})],
)
def test_arguments_of_the_environment_are_json(text, found):
    assert page_parts.arguments(text) == found


@pytest.mark.parametrize("text", ["", "split=video", "[1]", '"video"', "{"])
def test_arguments_of_another_form_are_refused(text):
    with pytest.raises(errors.UserError, match="page.env_args=.*: give a JSON object"):
        page_parts.arguments(text)
