"""The application behind a port, until it is told to end."""

import functools
import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from lapa_jax import errors
from lapa_jax.serving import protocols
from lapa_jax.serving.service import Service


class Server(uvicorn.Server):
    """After SIGTERM or SIGINT what runs is finished and what is new is refused; a second one cuts that short."""

    def __init__(self, app: Starlette) -> None:
        self.service: Service = app.state.service
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(protocols.Http, service=self.service),  # type: ignore[arg-type]
                ws_max_size=self.service.options.max_bytes,
                ws_per_message_deflate=False,  # images hardly shrink, and a small message may become a large one
                timeout_graceful_shutdown=5,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                loop="asyncio",  # uvloop, where it happens to be installed, would not be what was tested
            )
        )

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.service.broken is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.service.drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes that it was told to end. uvicorn's own would raise the signal again at the end and exit with it."""
        if self.should_exit:
            self.service.hurry = True
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the port, and refuses connections until `run`; port 0 is any free one.

    Raises:
        UserError: the port is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY on sockets that say they are TCP; without it an answer over HTTP takes 40 ms more.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except OSError as error:
        found.close()
        why = error.strerror or error
        raise errors.UserError(f"cannot listen at {host}:{port} ({why}): give another port or host") from None
    return found


def run(app: Starlette, listening: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        UserError: the policy could not be warmed up.
    """
    server: Any = Server(app)
    server.run(sockets=[listening])
    if server.service.broken is not None:
        why = server.service.broken
        raise errors.UserError(f"the policy failed when it was warmed up: {type(why).__name__}: {why}")
