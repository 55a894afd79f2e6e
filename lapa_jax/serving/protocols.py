"""uvicorn's two protocols with limits that it has not: how many connect, and how long a request may take to come.

It waits for ever for the first header and for the rest of a websocket's message. Written for its version 0.54.
"""

import asyncio
import functools
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from lapa_jax.serving import rest
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.service import Service

SPARE = 64
"""Connections beyond the limit that are still told so; more are cut."""
LINGER_S, QUIET_S = 2.0, 0.2
"""After its last word a connection stays open for so long, or until the client has been silent for so long. Were it
closed at once, what the client still sends would destroy that word on its way."""


class Http(H11Protocol):
    """
    Args:
        service: whose options count.
    """

    def __init__(self, *args: Any, service: Service, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._service, self._deadline, self._full, self._upgraded = service, None, False, False
        self.ws_protocol_class = functools.partial(Websocket, service=service)

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        most = self._service.options.max_connections
        if len(self.connections) > most + SPARE:
            transport.abort()
        if len(self.connections) > most:
            failure = Failure("too_many_connections", f"{most} are connected already: try again in a moment")
            self._service.count(failure)
            self._full, self.app = True, functools.partial(rest.refuse, failure)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._upgraded:
            return
        if self.cycle is None or self.cycle.response_complete:
            self._expect_headers()
        else:
            self._stop_waiting()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._stop_waiting()
        self._upgraded = True
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._end(Failure("bad_message", msg))

    def _should_upgrade(self) -> bool:
        return not self._full and super()._should_upgrade()

    def _expect_headers(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self._service.options.header_s, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._end(Failure("too_slow", f"no request within {self._service.options.header_s} s"))

    def _end(self, failure: Failure) -> None:
        """The last word where no route is reached."""
        self._stop_waiting()
        self._service.count(failure)
        response = rest.respond(failure, close=True)
        lines = [f"HTTP/1.1 {failure.kind.status} {failure.code}".encode()]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", response.body]))
        self.transport.close()


class Websocket(WebSocketsSansIOProtocol):
    """
    Args:
        service: whose options count.
    """

    def __init__(self, *args: Any, service: Service, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._service, self._deadline, self._ended, self._finished = service, None, False, False

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return self._close_later()  # what comes after the last word is not read
        self._finished = False
        super().data_received(data)
        if self._finished and not self.frames:
            self._stop_waiting()
        elif self._deadline is None and self.handshake_complete and not self.close_sent:
            self._deadline = self.loop.call_later(self._service.options.body_s, self._too_slow)

    def send_receive_event_to_app(self) -> None:
        super().send_receive_event_to_app()
        self._finished = True

    def handle_ping(self) -> None:
        super().handle_ping()
        self._finished = True

    def handle_pong(self, event: Any) -> None:
        super().handle_pong(event)
        self._finished = True

    def handle_parser_exception(self) -> None:
        """A message that is too large or no websocket frame: says so, and lingers."""
        self._ended = True
        closed = self.conn.close_sent
        code = "too_large" if closed.code == 1009 else "bad_message"
        self._service.count(Failure(code, closed.reason))
        self.queue.put_nowait({"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._close_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """The client does not read: what it was sent would be kept for it for ever."""
        super().keepalive_timeout()
        self.loop.call_later(LINGER_S, self.transport.abort)

    async def send(self, message: Any) -> None:
        if self._ended:
            raise ClientDisconnected
        await super().send(message)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline, self._ended = None, True
        failure = Failure("too_slow", f"a message did not end within {self._service.options.body_s} s")
        self._service.count(failure)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": failure.kind.close, "reason": str(failure)})
        self.conn.send_close(failure.kind.close, failure.reason())
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._close_later()

    def _close_later(self) -> None:
        now = self.loop.time()
        if self.close_timer is None:
            self.close_sent, self._latest = True, now + LINGER_S
            self.stop_keepalive()
            self._stop_waiting()
        else:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_at(min(now + QUIET_S, self._latest), self.transport.abort)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
