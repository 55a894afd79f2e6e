"""A trained policy and its LAQ behind the page: what is shown is what they say of the tabletop's own pictures."""

import asyncio
import functools

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page is served with the extra [serve]")
pytest.importorskip("pybullet", reason="the tabletop needs the extra [tabletop]")

import page_world

from lapa_jax import policy
from lapa_jax.serving import page
from lapa_jax.serving.imagination import Imagination
from lapa_jax.serving.page import messages


def test_a_trained_policy_is_watched(tiny_run):
    served = policy.Policy.from_checkpoint(tiny_run("finetune"))
    imagine = Imagination.from_checkpoint(tiny_run("train_laq"), served.metadata)
    shown = page.Live(functools.partial(asyncio.to_thread, served.infer), served.metadata, imagine)
    env = shown.make_environment()
    image = env.reset(seed=shown.first_seed)[0]["image"]
    env.close()
    expected = served.infer({"image": image, "instruction": "push the red block left"})
    with page_world.serving(shown) as server, page_world.Talk(server) as talk:
        talk.say(type="instruction", text="push the red block left")
        told = talk.hear("welcome")
        assert told["policy"]["checkpoint"] == served.metadata["checkpoint"] != ""
        assert told["imagination"] == {"available": True, "why": None, "gap": imagine.gap}
        talk.say(type="step")
        decision = talk.hear("decision")
        np.testing.assert_allclose(decision["actions"], expected["actions"], atol=1e-6)
        assert decision["latents"] == expected["latents"].tolist()
        assert talk.hear("frame", step=1)["action"] == decision["actions"][0]
        found = talk.hear("imagined")
        by_hand = imagine(image, expected["latents"])
        assert found["seen"] == messages.picture(by_hand.seen)
        assert found["painted"] == messages.picture(by_hand.painted)
        talk.say(type="instruction", text="push " * 60)
        talk.say(type="step")
        assert "shorten the instruction" in talk.hear("error")["text"]
