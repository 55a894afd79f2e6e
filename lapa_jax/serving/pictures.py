"""Images inside JSON -> uint8[H, W, 3]: PNG or JPEG as base64, json_numpy's arrays, or nested lists."""

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image

from lapa_client import messages
from lapa_jax.serving.failures import Failure


def decoded(value: Any, max_pixels: int) -> Any:
    """An array for what stands for an image; anything else as it is, for `fields` to judge.

    Raises:
        Failure: "bad_observation": it began as an image and is none, or is too large.
    """
    if isinstance(value, str):
        return picture(value, max_pixels)
    return _nested(value) if isinstance(value, list) else value


def picture(text: str, max_pixels: int) -> np.ndarray:
    """base64 of a PNG or JPEG, also as a data URL."""
    data = _bytes(text.partition(",")[2] if text.startswith("data:") else text)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > max_pixels:
                raise _wrong(f"an image is {image.width}x{image.height}: give at most {max_pixels} pixels")
            if image.mode != "RGB":
                raise _wrong(f"an image has mode {image.mode}: give RGB")
            return np.asarray(image)
    except Failure:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _wrong(f"an image is no PNG or JPEG that can be read ({_short(error)}); send base64 of one") from None


def json_numpy(value: dict) -> np.ndarray:
    """{"__numpy__": base64, "dtype": ..., "shape": [...]}, as the package json_numpy writes arrays."""
    try:
        return messages.array(_bytes(value["__numpy__"]), value.get("dtype"), value.get("shape"))
    except messages.BadMessage as error:
        raise _wrong(f"an array in json_numpy's form is wrong: {error}") from None


def to_json_numpy(array: np.ndarray) -> dict[str, Any]:
    """An array in that form."""
    data = base64.b64encode(array.tobytes()).decode()
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


def _nested(value: list) -> Any:
    """Lists of whole numbers from 0 to 255, three deep, as uint8[H, W, 3]; others as arrays of what they hold."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise _wrong("lists inside a list differ in length") from None
    if array.ndim == 3 and array.dtype.kind == "i" and array.min(initial=0) >= 0 and array.max(initial=0) <= 255:
        return array.astype(np.uint8)
    return array


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise _wrong(f"base64 is text, not {type(text).__name__}")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"not base64: {_short(error)}") from None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:80]


def _wrong(sentence: str) -> Failure:
    return Failure("bad_observation", sentence)
