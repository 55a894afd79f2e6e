"""The page over HTTP, and the websocket behind it."""

import asyncio
import contextlib
import json
import pathlib
import time
from typing import Any

from starlette import responses, routing, staticfiles, websockets

from lapa_jax import errors
from lapa_jax.serving.page import messages
from lapa_jax.serving.page.live import Limits, Live
from lapa_jax.serving.page.session import Session, first_of

STATIC = pathlib.Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes(live: Live) -> list[routing.BaseRoute]:
    """GET `/`, the page; `/page/...`, its files; and the websocket `/page/live`.

    Who may come is decided around them (`guard.Guard`): any web page can open a websocket to this machine.
    """
    door = _Door(live)
    return [
        routing.Route("/", lambda _: responses.FileResponse(STATIC / "index.html", headers=HEADERS)),
        routing.WebSocketRoute("/page/live", door.enter),
        routing.Mount("/page", staticfiles.StaticFiles(directory=STATIC)),
    ]


class Refused(Exception):
    """This page is not served, or no longer: a word for the program, a sentence for the person, a close code."""

    def __init__(self, code: str, sentence: str, close: int) -> None:
        super().__init__(sentence)
        self.code, self.close = code, close


class _Door:
    """Lets pages in, as many as there may be."""

    def __init__(self, live: Live) -> None:
        self._live, self._inside = live, 0

    async def enter(self, socket: websockets.WebSocket) -> None:
        await socket.accept()
        line = _Line(socket, self._live.limits)
        try:
            await self._serve(line)
        except Refused as error:
            await line.refuse(error)
        except websockets.WebSocketDisconnect:
            pass  # the page was closed

    async def _serve(self, line: "_Line") -> None:
        if self._inside >= self._live.limits.sessions:
            raise Refused("full", f"{self._inside} pages are open, which is all there may be: try later.", 1013)
        self._inside += 1
        try:
            session = Session(self._live, line.send)
            await first_of(line.listen(session), session.run(), line.lost())
        except errors.UserError as error:
            raise Refused("environment", str(error), 1011) from error
        finally:
            self._inside -= 1


class _Line:
    """The connection to one page."""

    def __init__(self, socket: websockets.WebSocket, limits: Limits) -> None:
        self._socket, self._limits = socket, limits
        self._one_at_a_time, self._lost = asyncio.Lock(), asyncio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        """Where a page does not take it, `lost` ends."""
        text = json.dumps(message, allow_nan=False)
        try:
            async with asyncio.timeout(self._limits.send_seconds), self._one_at_a_time:
                await self._socket.send_text(text)
        except (websockets.WebSocketDisconnect, TimeoutError, RuntimeError):
            self._lost.set()

    async def lost(self) -> None:
        """Ends when the page went away, or takes nothing any more."""
        await self._lost.wait()

    async def listen(self, session: Session) -> None:
        """Hands on what the person asks for.

        Raises:
            Refused: nobody asked for anything for a long time.
        """
        last = time.monotonic()
        while True:
            left = self._limits.idle_seconds - (time.monotonic() - last)
            try:
                message = await asyncio.wait_for(self._heard(), max(left, 0))
            except TimeoutError as error:
                minutes = self._limits.idle_seconds / 60
                raise Refused("idle", f"Nothing was asked for in {minutes:.3g} minutes.", 1000) from error
            except errors.UserError as error:
                await self.send({"type": "error", "text": str(error), "fatal": False})
                continue
            if message["type"] == "ping":
                await self.send({"type": "pong", "at": message["at"]})
                continue
            last = time.monotonic()
            session.take(message)
            await self.send(session.status())

    async def refuse(self, error: Refused) -> None:
        """Says why, and hangs up."""
        await self.send({"type": "error", "code": error.code, "text": str(error), "fatal": True})
        with contextlib.suppress(websockets.WebSocketDisconnect, RuntimeError):
            await self._socket.close(error.close)

    async def _heard(self) -> dict[str, Any]:
        """The next message, checked.

        Raises:
            UserError: it is none.
        """
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise websockets.WebSocketDisconnect(event.get("code", 1006))
        text = event.get("text")
        return messages.read(event.get("bytes") if text is None else text, self._limits)

