"""What is checked of every request before a route sees it: whence it comes, and whether it may come."""

import base64
import binascii
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from lapa_jax.serving import rest
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.service import Service

OPEN = ("/healthz", "/readyz")
"""Without a token, for monitors."""


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(scope)
            except Failure as failure:
                self.service.count(failure)
                return await _refuse(failure, scope, receive, send)
        return await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        check_origin(headers, self.service.options.hosts)
        if scope["path"] in OPEN:
            return
        if self.service.options.token is not None:
            check_token(headers.get("authorization", ""), self.service.options.token)
        if self.service.ending.is_set():
            raise Failure("shutting_down", "this server is shutting down")


def check_origin(headers: Headers, hosts: tuple[str, ...] | None = None) -> None:
    """Browsers let any page open a websocket to this machine and say in Origin which page it is.

    Args:
        hosts: names of this machine, see `Options.hosts`.

    Raises:
        Failure: "forbidden_origin": it was not served from here.
    """
    origin = headers.get("origin")
    if origin is None:
        return
    try:
        place = urlsplit(origin)
        ours = place.netloc.lower() == headers.get("host", "").lower()
        ours = ours and (hosts is None or (place.hostname or "") in hosts)
    except ValueError:
        ours = False
    if not ours:
        raise Failure("forbidden_origin", f"a page of {origin:.80} may not use this server")


def check_token(said: str, token: str) -> None:
    """`Authorization: Bearer TOKEN`, openpi's `Api-Key TOKEN`, or a browser's Basic with the token as password.

    Raises:
        Failure: "unauthorized".
    """
    scheme, _, value = said.partition(" ")
    if scheme.lower() == "basic":
        value = _password(value)
    known = scheme.lower() in ("bearer", "api-key", "basic")
    if not hmac.compare_digest(value.strip().encode(), token.encode()) or not known:
        raise Failure("unauthorized", "this server wants a token: send 'Authorization: Bearer TOKEN'")


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


async def _refuse(failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        return await rest.refuse(failure, scope, receive, send)
    websocket = WebSocket(scope, receive, send)
    await websocket.receive()
    await websocket.send_denial_response(rest.respond(failure, close=True))
