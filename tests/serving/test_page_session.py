"""The page's conversation with a server, in the real tabletop: what is asked for happens, and is shown."""

import base64
import configparser
import http.client
import io
import re
import time

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page is served with the extra [serve]")
pytest.importorskip("pybullet", reason="the tabletop needs the extra [tabletop]")

import page_world
import waiting
from page_world import Talk
from PIL import Image

from lapa_jax import envs
from lapa_jax.serving.page import Limits, web


@pytest.fixture(scope="module")
def policy():
    return page_world.FakePolicy()


@pytest.fixture(scope="module")
def server(policy):
    arguments = {"split": "heldout", "max_steps": 12}
    with page_world.serving(page_world.live(policy, arguments=arguments, first_seed=100)) as address:
        yield address


@pytest.fixture
def talk(server):
    with Talk(server) as one:
        one.hear("welcome")
        one.hear("frame", step=0)
        one.say(type="speed", value=10)
        yield one


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB")).astype(int)


def arm(frame):
    """(x, y) of the dark effector in the picture, right and up."""
    rows, columns = np.nonzero(pixels(frame["image"]).max(-1) < 50)
    return np.array([columns.mean(), -rows.mean()])


def get(server, path):
    connection = http.client.HTTPConnection(server, timeout=waiting.PATIENCE)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_the_page_and_its_files_are_served_and_may_load_nothing_else(server):
    page = get(server, "/")
    assert page.status == 200 and page.getheader("content-type").startswith("text/html")
    assert "default-src 'none'" in page.getheader("content-security-policy")
    for file in web.STATIC.iterdir():
        assert get(server, f"/page/{file.name}").status == 200
    for path in ("/page/../web.py", "/page/%2e%2e/web.py", "/page/nothing.js"):
        assert get(server, path).status == 404


def test_an_installed_package_has_the_files():
    config = configparser.ConfigParser()
    config.read(web.STATIC.parents[3] / "setup.cfg")
    patterns = config["options.package_data"]["lapa_jax.serving.page"].split()
    packed = {file for pattern in patterns for file in web.STATIC.parent.glob(pattern)}
    assert packed == set(web.STATIC.iterdir()) and web.STATIC / "index.html" in packed


def test_a_page_is_welcomed_with_what_it_has_to_know(server):
    with Talk(server) as talk:
        told = talk.hear("welcome")
        first = talk.hear("frame")
    assert told["environment"]["name"] == "tabletop" and told["environment"]["rate"] == 10
    x = {"name": "x", "unit": "m", "low": pytest.approx(-0.03), "high": pytest.approx(0.03)}
    assert told["actions"]["axes"] == [x, x | {"name": "y"}]
    assert told["policy"]["code_length"] == 2 and told["imagination"]["available"]
    env = envs.make("tabletop", split="heldout", max_steps=12)
    observation, _ = env.reset(seed=100)
    env.close()
    np.testing.assert_array_equal(pixels(first["image"]), observation["image"])
    assert first["own_instruction"] == first["instruction"] == observation["instruction"]


@pytest.mark.parametrize("word", page_world.WAYS)
def test_the_arm_obeys_the_words_of_the_person(talk, policy, word):
    before = talk.hear("status")
    talk.say(type="instruction", text=f"move {word}")
    talk.say(type="reset", seed=3)
    start = talk.hear("frame", step=0, seed=3)
    assert start["instruction"] == f"move {word}" != start["own_instruction"] and not before["running"]
    for _ in range(4):
        talk.say(type="step")
    moved = arm(talk.hear("frame", step=4)) - arm(start)
    way = np.array(page_world.WAYS[word])
    assert moved @ way > 3 and abs(moved @ way[::-1]) < 1.5
    assert policy.asked[-1]["instruction"] == f"move {word}"
    assert set(policy.asked[-1]) == {"image", "instruction"}  # neither the effector nor anything else


def test_a_decision_shows_the_plan_and_what_of_it_is_carried_out(talk):
    talk.say(type="instruction", text="move up")
    talk.say(type="step")
    decision = talk.hear("decision")
    assert decision["step"] == 0 and decision["instruction"] == "move up" and decision["infer_ms"] >= 2
    np.testing.assert_allclose(decision["actions"], [[0, 0.02], [0, 0.018], [0, 0.016], [0, 0.014]], atol=1e-6)
    assert decision["carried"] == decision["actions"][:2] and decision["latents"][0] == 2
    acted = talk.hear("frame", step=1)
    assert acted["action"] == decision["actions"][0] and not acted["running"]


def test_what_is_imagined_is_of_the_frame_that_was_looked_at(talk):
    talk.say(type="reset", seed=4)
    start = talk.hear("frame", step=0, seed=4)
    talk.say(type="instruction", text="move right")
    talk.say(type="step")
    found = talk.hear("imagined", step=0)
    np.testing.assert_array_equal(pixels(found["seen"]), pixels(start["image"]))
    np.testing.assert_array_equal(pixels(found["painted"]), np.roll(pixels(start["image"]), 1, axis=1))
    assert found["imagine_ms"] > 0


def test_a_new_instruction_ends_the_plan_of_the_old_one(talk):
    talk.say(type="reset", seed=3)
    talk.hear("frame", step=0, seed=3)
    talk.say(type="instruction", text="move up")
    talk.say(type="step")
    talk.hear("frame", step=1)  # one of two actions of the plan
    talk.say(type="instruction", text="move left")
    talk.say(type="step")
    assert talk.hear("decision")["instruction"] == "move left"
    assert talk.hear("frame", step=2)["action"] == pytest.approx([-0.02, 0])
    talk.say(type="instruction", text="")
    talk.say(type="step")
    last = talk.hear("frame", step=3)
    assert last["instruction"] == last["own_instruction"] != "move left"


def test_it_runs_at_the_environments_rate_until_it_is_paused(talk):
    talk.say(type="instruction", text="stay")
    talk.say(type="reset", seed=5)
    talk.say(type="speed", value=2)
    talk.say(type="start")
    assert talk.hear("frame", step=1)["running"]
    clock = time.perf_counter()
    talk.hear("frame", step=7)
    assert 0.2 < time.perf_counter() - clock  # 6 steps of 0.05 s, less what the network may bunch
    talk.say(type="pause")
    talk.hear("status", running=False)
    time.sleep(0.3)
    talk.say(type="step")
    assert talk.hear("frame", running=False)["step"] <= 9  # one may have been on its way


def test_a_scene_ends_and_only_a_reset_begins_another(talk):
    talk.say(type="instruction", text="stay")
    talk.say(type="reset", seed=6)
    talk.hear("frame", step=0, seed=6)
    talk.say(type="start")
    last = talk.hear("frame", step=12)
    assert last["outcome"] == "over" and not last["running"]
    talk.say(type="start")
    assert "reset" in talk.hear("error")["text"]
    talk.say(type="reset", seed=6)
    assert talk.hear("frame")["outcome"] is None


def test_it_goes_on_with_the_next_seed_when_it_is_told_to(talk):
    talk.say(type="instruction", text="stay")
    talk.say(type="again", on=True)
    talk.say(type="reset", seed=8)
    talk.say(type="start")
    assert talk.hear("frame", step=12)["seed"] == 8
    talk.hear("frame", step=0, seed=9)
    assert talk.hear("frame", step=1)["running"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("so " * 40, "40 words and 30 fit: shorten the instruction"),
        ("break it", "RuntimeError in the policy or the environment"),
        ("nan", "not finite; it was not carried out"),
    ],
)
def test_what_goes_wrong_is_said_and_the_person_goes_on(talk, words, sentence):
    talk.say(type="instruction", text=words)
    talk.say(type="start")
    assert sentence in talk.hear("error")["text"]
    assert talk.hear("status", running=False)["step"] == 0
    talk.say(type="instruction", text="move up")
    talk.say(type="step")
    talk.hear("frame", step=1)


def test_malformed_messages_end_nothing(talk, server):
    for content in (b"\0\xff", "{", "[]", '{"type": "reset", "seed": "x"}', "x" * 5000):
        talk.socket.send(content)
        assert not talk.hear("error")["fatal"]
    talk.say(type="step")
    talk.hear("frame", step=1)
    with Talk(server) as other:
        other.hear("frame")


def test_plans_are_blended_where_the_server_says_so():
    with page_world.serving(page_world.live(ensemble=0.0)) as server, Talk(server) as talk:
        talk.hear("frame", step=0)
        talk.say(type="instruction", text="move up")
        for expected in (0.02, 0.019):  # the second is the mean of what two plans say
            talk.say(type="step")
            assert talk.hear("decision")["carried"] == [pytest.approx([0, expected])]


def test_as_many_pages_as_there_may_be(monkeypatch):
    closed = []
    made = envs.make("tabletop")
    monkeypatch.setattr(type(made), "close", lambda self: closed.append(self))
    with page_world.serving(page_world.live(limits=Limits(sessions=1))) as server:
        with Talk(server) as first:
            first.hear("frame")
            with Talk(server) as second:
                refused = second.hear("error")
            assert refused["code"] == "full" and refused["fatal"] and "1 pages are open" in refused["text"]
            first.say(type="step")
            first.hear("frame", step=1)
        waiting.until(lambda: closed)
        assert len(closed) == 1  # the environment went with its page
        with Talk(server) as third:
            third.hear("frame")


def test_a_page_that_asks_for_nothing_is_sent_away():
    with page_world.serving(page_world.live(limits=Limits(idle_seconds=0.4))) as server, Talk(server) as talk:
        talk.hear("frame")
        talk.say(type="ping", at=0)
        assert talk.hear("error")["code"] == "idle"


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(metadata=page_world.METADATA | {"action_dim": 7}), r"7 numbers an action and tabletop takes \(2,\)"),
        (dict(environment="moon"), "unknown environment 'moon': choose one of"),
        (dict(arguments={"split": "moon"}), "unknown tabletop split"),
        (dict(arguments={"moon": 1}), "TypeError while tabletop was made"),
    ],
)
def test_an_environment_that_does_not_fit_is_named(changes, sentence):
    with page_world.serving(page_world.live(**changes)) as server, Talk(server) as talk:
        found = talk.hear("error")
        assert found["fatal"] and found["code"] == "environment"
        assert re.search(sentence, found["text"])


def test_another_environment_with_an_image_is_shown_as_well(monkeypatch):
    monkeypatch.setitem(envs.MODULES, "fake_arm", "fake_arm")
    arm = page_world.live(infer=page_world.wave, metadata=page_world.ARM, environment="fake_arm")
    with page_world.serving(arm) as server, Talk(server) as talk:
        told = talk.hear("welcome")
        assert told["environment"] == {"name": "fake_arm", "rate": 10}
        assert told["actions"]["axes"][3] == {"name": "droll", "unit": "rad", "low": None, "high": None}
        assert told["actions"]["declared"] == "convention: delta of the end effector"
        first = talk.hear("frame")
        assert first["image"].startswith("data:image/jpeg") and pixels(first["image"]).shape == (240, 320, 3)
        talk.say(type="step")
        assert "gives no instruction: type one" in talk.hear("error")["text"]
        talk.say(type="instruction", text="wave")
        talk.say(type="step")
        assert len(talk.hear("frame", step=1)["action"]) == 7
        assert pixels(talk.hear("imagined")["seen"]).shape == (240, 320, 3)
