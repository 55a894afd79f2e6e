"""Clients that ask again as soon as they are answered, and how long they waited."""

import base64
import dataclasses
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

import numpy as np
from PIL import Image

from lapa_client import Client

Ask = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Waits:
    """Of all clients of one turn.

    Attributes:
        ms: of each request.
        per_s: requests a second, all clients together.
    """

    ms: list[float]
    per_s: float

    def percentiles(self) -> dict[str, float]:
        return {f"p{one}": float(np.percentile(self.ms, one)) for one in (50, 95, 99)}


def by_websocket(port: int, observation: Mapping[str, Any]) -> tuple[Ask, Callable[[], None]]:
    """(ask, close) of a client of its own."""
    client = Client(f"ws://127.0.0.1:{port}")
    return lambda: client.infer(observation), client.close


def by_rest(port: int, observation: Mapping[str, Any]) -> tuple[Ask, Callable[[], None]]:
    """The same over one HTTP connection; the image is a JPEG in JSON, encoded once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({name: _in_json(value) for name, value in observation.items()})

    def ask() -> Any:
        connection.request("POST", "/act", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        found = json.loads(answer.read())
        assert answer.status == 200, found
        return found

    return ask, connection.close


def _in_json(value: Any) -> Any:
    """An image as a JPEG in base64, other arrays as lists, the rest as it is."""
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim != 3:
        return value.tolist()
    stream = io.BytesIO()
    Image.fromarray(value).save(stream, "JPEG", quality=95)
    return base64.b64encode(stream.getvalue()).decode()


def turn(make: Callable[[], tuple[Ask, Callable[[], None]]], clients: int, seconds: float) -> Waits:
    """All clients ask for so long; each is made, and has asked once, before the clock starts."""
    begun: list[float] = []
    start = threading.Barrier(clients, action=lambda: begun.append(time.perf_counter()), timeout=120)

    def drive(_: int) -> list[float]:
        found: list[float] = []
        try:
            ask, close = make()
            ask()
            start.wait()
        except BaseException:
            start.abort()  # or the others would wait for this one
            raise
        while not found or time.perf_counter() < begun[0] + seconds:
            before = time.perf_counter()
            ask()
            found.append(1e3 * (time.perf_counter() - before))
        close()
        return found

    with futures.ThreadPoolExecutor(clients) as pool:
        ms = [one for found in pool.map(drive, range(clients)) for one in found]
    return Waits(ms, len(ms) / (time.perf_counter() - begun[0]))
