"""Bodies of `POST /act`, and what is answered to each: our JSON, OpenVLA's JSON, msgpack."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_client import messages
from lapa_jax.serving import pictures
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.fields import Fields

MAX_LISTS = 1_000_000
"""Lists and maps of a JSON body: an image of 640x480 as nested lists has 307,681; an empty list takes 56 bytes."""
MSGPACK = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")


def parse(kind: str, body: bytes, fields: Fields) -> tuple[dict[str, Any], str]:
    """The observation of a body, and the form of its answer: "msgpack", "plain", "openvla" or "encoded".

    Args:
        kind: the request's content type.

    Raises:
        Failure: "unsupported", "bad_message" or "bad_observation".
    """
    if kind in MSGPACK:
        try:
            return fields.of(messages.unpack(body)), "msgpack"
        except messages.BadMessage as error:
            raise Failure("bad_message", str(error)) from None
    if kind != "application/json":
        raise Failure("unsupported", f"content type {kind!r:.80}: send application/json or application/msgpack")
    message, form = _load(body), "plain"
    if isinstance(message, dict) and isinstance(message.get("encoded"), str):  # OpenVLA's way without json_numpy
        if len(message) > 1:
            raise Failure("bad_observation", "'encoded' stands alone: it holds all the other fields")
        message, form = _load(message["encoded"].encode(errors="surrogatepass")), "encoded"
    elif isinstance(message, dict) and any(isinstance(value, np.ndarray) for value in message.values()):
        form = "openvla"
    return fields.of(message, lambda value: pictures.decoded(value, fields.max_pixels)), form


def answer(result: Mapping[str, Any], form: str, chunk: bool) -> tuple[bytes, str]:
    """A body and its content type.

    Args:
        result: `actions` float32[horizon, A], `latents` and `server_timing`.
        chunk: OpenVLA's clients expect one action, the first of the chunk, unless this asks for all of it.
    """
    if form == "msgpack":
        return messages.pack(result), MSGPACK[0]
    if form == "plain":
        made: Any = {**result, "actions": result["actions"].tolist()}
    else:
        made = pictures.to_json_numpy(result["actions"] if chunk else result["actions"][0])
        made = json.dumps(made) if form == "encoded" else made
    return json.dumps(made).encode(), "application/json"


def _load(body: bytes) -> Any:
    if body.count(b"[") + body.count(b"{") > MAX_LISTS:
        raise Failure("too_large", f"more than {MAX_LISTS} lists: send the image as base64 of a PNG or JPEG")
    try:
        return json.loads(body, object_hook=_array, parse_constant=_no_number)
    except Failure:
        raise
    except RecursionError:
        raise Failure("bad_message", "JSON is nested too deep") from None
    except ValueError as error:
        raise Failure("bad_message", f"not JSON: {str(error):.120}") from None


def _array(found: dict) -> Any:
    return pictures.json_numpy(found) if "__numpy__" in found else found


def _no_number(name: str) -> Any:
    raise Failure("bad_message", f"{name} is no number in JSON")
