"""What a page may say, checked; and pictures as it takes them. Both ways: docs/live-page.md."""

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg

from lapa_jax import errors
from lapa_jax.data import transforms
from lapa_jax.serving.page.live import Limits

SPEEDS = (0.1, 10.0)
LARGEST_SEED = 2**31 - 1
LARGEST_PNG = 160
"""Side in pixels up to which pictures stay exact; larger ones are JPEG."""


def read(content: Any, limits: Limits) -> dict[str, Any]:
    """A message of the page, of a known type and with the fields of that type only.

    Raises:
        UserError: it is something else; the sentence is for the person at the page.
    """
    if not isinstance(content, str):
        raise errors.UserError("A message is text with JSON, and this one was binary.")
    if len(content.encode()) > limits.message_bytes:
        raise errors.UserError(f"A message may have {limits.message_bytes} bytes, and this one was longer.")
    try:
        message = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise errors.UserError("A message is JSON, and this one was not.") from error
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise errors.UserError(f"A message is an object whose type is one of {', '.join(FIELDS)}.")
    fields = FIELDS[kind]
    if set(message) != {"type", *fields}:
        raise errors.UserError(f"A message of type {kind} has {', '.join(fields) or 'nothing'} beside its type.")
    return {"type": kind} | {name: check(message[name], limits) for name, check in fields.items()}


def picture(image: np.ndarray) -> str:
    """uint8[H, W, 3] as an address that holds it."""
    if max(image.shape[:2]) <= LARGEST_PNG:
        kind, content = "png", transforms.encode_png(image)
    else:
        kind, content = "jpeg", simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _instruction(value: Any, limits: Limits) -> str:
    if not isinstance(value, str):
        raise errors.UserError("An instruction is text.")
    words = " ".join(value.split())
    if len(words) > limits.instruction:
        raise errors.UserError(
            f"An instruction may have {limits.instruction} characters, and this one has {len(words)}: shorten it."
        )
    if not words.isprintable():
        raise errors.UserError("An instruction is made of letters that can be printed.")
    return words


def _seed(value: Any, _: Limits) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_SEED:
        raise errors.UserError(f"A seed is a whole number from 0 to {LARGEST_SEED}.")
    return value


def _speed(value: Any, _: Limits) -> float:
    if type(value) not in (int, float) or not SPEEDS[0] <= value <= SPEEDS[1]:
        raise errors.UserError(f"A speed is a number from {SPEEDS[0]:g} to {SPEEDS[1]:g}.")
    return float(value)


def _on(value: Any, _: Limits) -> bool:
    if not isinstance(value, bool):
        raise errors.UserError("This is switched on with true and off with false.")
    return value


def _at(value: Any, _: Limits) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e15:
        raise errors.UserError("A ping says the time at which it was sent, in milliseconds.")
    return value


FIELDS: dict[str, dict[str, Callable[[Any, Limits], Any]]] = {
    "instruction": {"text": _instruction},
    "start": {},
    "pause": {},
    "step": {},
    "reset": {"seed": _seed},
    "speed": {"value": _speed},
    "again": {"on": _on},
    "ping": {"at": _at},
}
"""Type of message -> its fields and how each is checked."""
