"""What a page may say; and pictures that it can show."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lapa_jax import errors
from lapa_jax.serving.page import Limits, messages

LIMITS = Limits(message_bytes=200, instruction=20)


@pytest.mark.parametrize(
    "text, fields",
    [
        ('{"type": "start"}', {}),
        ('{"type": "reset", "seed": 7}', {"seed": 7}),
        ('{"type": "speed", "value": 2}', {"value": 2.0}),
        ('{"type": "again", "on": true}', {"on": True}),
        ('{"type": "ping", "at": 12.5}', {"at": 12.5}),
        ('{"type": "instruction", "text": "  push\\n the\\tcube "}', {"text": "push the cube"}),
        ('{"type": "instruction", "text": ""}', {"text": ""}),
    ],
)
def test_what_may_be_said(text, fields):
    found = messages.read(text, LIMITS)
    assert {name: found[name] for name in found if name != "type"} == fields


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b'{"type": "start"}', "binary"),
        (None, "binary"),
        ("", "is JSON"),
        ("{", "is JSON"),
        ("[" * 190, "is JSON"),
        ("7", "type is one of instruction, start"),
        ("null", "type is one of"),
        ('{"type": ["start"]}', "type is one of"),
        ('{"type": "shutdown"}', "type is one of"),
        ('{"type": "start", "now": 1}', "start has nothing beside"),
        ('{"type": "reset"}', "reset has seed beside"),
        ('{"type": "reset", "seed": -1}', "whole number from 0"),
        ('{"type": "reset", "seed": 1.5}', "whole number"),
        ('{"type": "reset", "seed": true}', "whole number"),
        ('{"type": "reset", "seed": %s}' % ("9" * 150), "whole number"),
        ('{"type": "speed", "value": NaN}', "number from 0.1 to 10"),
        ('{"type": "speed", "value": 1e9}', "number from 0.1 to 10"),
        ('{"type": "speed", "value": "fast"}', "number from 0.1 to 10"),
        ('{"type": "again", "on": 1}', "true"),
        ('{"type": "ping", "at": 1e400}', "milliseconds"),
        ('{"type": "ping", "at": null}', "milliseconds"),
        ('{"type": "instruction", "text": 5}', "instruction is text"),
        ('{"type": "instruction", "text": "push the cube to the far left"}', "20 characters, and this one has 29"),
        ('{"type": "instruction", "text": "\\u0000"}', "printed"),
        ('{"type": "instruction", "text": "\\ud800"}', "printed"),
        ('{"type": "instruction", "text": "' + "ä" * 90 + '"}', "200 bytes"),
    ],
)
def test_what_may_not_be_said_is_answered_with_a_sentence(content, sentence):
    with pytest.raises(errors.UserError, match=sentence):
        messages.read(content, LIMITS)


@pytest.mark.parametrize("side, kind, exact", [(64, "png", True), (224, "jpeg", False)])
def test_pictures_are_the_image(side, kind, exact):
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    image = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), 90)], -1)
    image = image.astype(np.uint8)[::-1]
    head, content = messages.picture(image).split(",")
    assert head == f"data:image/{kind};base64"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)
    assert np.abs(found - image).max() <= (0 if exact else 12)
