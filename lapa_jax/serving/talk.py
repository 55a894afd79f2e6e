"""openpi's websocket protocol: metadata first, then an answer to each observation.

An error is a text message and the end of the connection, as openpi's own server has it; ours is JSON of a code and
a sentence. Source: openpi's websocket_policy_server.py and the package openpi-client, version 0.1.2.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from lapa_client import messages
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.service import Service

log = logging.getLogger(__name__)
GONE = (WebSocketDisconnect, ConnectionError)


class Inbox:
    """Messages of a websocket. One is always awaited, so that it is noticed when the client leaves."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._next = asyncio.ensure_future(websocket.receive())

    async def get(self, ending: asyncio.Event, idle_s: float) -> bytes | str:
        """The next message.

        Raises:
            Failure: "idle" or "shutting_down".
            WebSocketDisconnect: the client has left.
        """
        end = asyncio.ensure_future(ending.wait())
        await asyncio.wait({self._next, end}, timeout=idle_s, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if not self._next.done():
            if ending.is_set():
                raise Failure("shutting_down", "this server is shutting down")
            raise Failure("idle", f"nothing was asked for {idle_s:.0f} s")
        message = self._next.result()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        self._next = asyncio.ensure_future(self._websocket.receive())
        data = message.get("bytes")
        return message["text"] if data is None else data

    async def during(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`, which is cancelled when the client leaves.

        Raises:
            WebSocketDisconnect: it has left.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._next}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and self._left():
                raise WebSocketDisconnect(1006)
            return await task
        finally:
            task.cancel()

    def close(self) -> None:
        self._next.cancel()

    def _left(self) -> bool:
        return self._next.done() and self._next.result()["type"] == "websocket.disconnect"


async def talk(websocket: WebSocket) -> None:
    """A connection from its beginning to its end."""
    service: Service = websocket.app.state.service
    await websocket.accept()
    inbox = Inbox(websocket)
    with contextlib.suppress(*GONE), service.connection():
        try:
            await inbox.during(service.ready.wait())
            service.check_ready()
            await websocket.send_bytes(service.greeting)
            await _answer_all(websocket, inbox, service)
        except Failure as failure:
            await websocket.close(failure.kind.close, failure.reason())
        finally:
            inbox.close()


async def _answer_all(websocket: WebSocket, inbox: Inbox, service: Service) -> None:
    before: dict[str, float] = {}
    while True:
        data = await inbox.get(service.ending, service.options.idle_s)
        begun = time.perf_counter()
        try:
            result = await _answer(data, inbox, service)
        except Failure as failure:
            await websocket.send_text(failure.body())
            raise
        result["server_timing"].update(before)
        await websocket.send_bytes(messages.pack(result))
        before = {"prev_total_ms": 1e3 * (time.perf_counter() - begun)}


async def _answer(data: bytes | str, inbox: Inbox, service: Service) -> dict[str, Any]:
    with service.request("websocket"):
        if isinstance(data, str):
            raise Failure("bad_message", "text: send an observation as a binary message of msgpack")
        try:
            return await inbox.during(service.infer(messages.unpack(data)))
        except messages.BadMessage as error:
            raise Failure("bad_message", str(error)) from None
        except (Failure, *GONE):
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours ends this connection only
            log.error("a request failed", exc_info=error)
            raise Failure("internal", f"the server failed with {type(error).__name__}: see its log") from None
