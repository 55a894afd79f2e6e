"""The server as an ASGI application; `server.run` puts it behind a port."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, WebSocketRoute

from lapa_jax.serving import rest, talk
from lapa_jax.serving.calls import Policy
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.guard import Guard
from lapa_jax.serving.options import Options
from lapa_jax.serving.service import Service


def make(policy: Policy, options: Options | None = None, extra_routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Both protocols and what monitors ask, on one application. It warms up in the background once it is started.

    Args:
        extra_routes: of a page, for instance. They find the policy as `request.app.state.service`, whose `infer`
            shares calls with all other clients.

    Raises:
        UserError: options that do not go with the policy.
    """
    service = Service(policy, options or Options())
    made = Starlette(
        routes=[WebSocketRoute("/", talk.talk), *rest.ROUTES, *extra_routes],
        middleware=[Middleware(Guard, service=service)],
        exception_handlers={Failure: rest.on_failure, HTTPException: rest.on_http, Exception: rest.on_bug},
        lifespan=_lifespan,
    )
    made.state.service = service
    return made


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    service: Service = app.state.service
    tasks = [asyncio.create_task(work) for work in (service.batcher.run(), service.warm_up())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
