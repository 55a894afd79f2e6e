"""`POST /act`, and what a person or a monitor asks: /metadata, /healthz, /readyz, /metrics."""

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lapa_jax.serving import bodies
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.service import Service

LISTEN_S = 2.0
"""Given to a request that is refused anyway."""


async def act(request: Request) -> Response:
    """An observation in, actions out; the forms are in docs/serving.md."""
    service: Service = request.app.state.service
    with service.request("http"):
        try:
            body = await _body(request, service)
            chunk = request.query_params.get("chunk", "0") not in ("0", "")
            answer, kind = await _unless_gone(request, _answer(request, body, chunk, service))
            return Response(answer, media_type=kind)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it


async def _answer(request: Request, body: bytes, chunk: bool, service: Service) -> tuple[bytes, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    observation, form = await asyncio.to_thread(bodies.parse, kind, body, service.fields)
    return bodies.answer(await service.answer(observation), form, chunk)


async def _body(request: Request, service: Service) -> bytes:
    """
    Raises:
        Failure: "too_large" after the end of it, or the client would not hear; "too_slow"; "unsupported".
    """
    parts, size, most = [], 0, service.options.max_bytes
    try:
        async with asyncio.timeout(service.options.body_s):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    parts.clear()
                else:
                    parts.append(part)
    except TimeoutError:
        if size <= most:
            raise Failure("too_slow", f"the body did not arrive within {service.options.body_s} s") from None
    if size > most:
        raise Failure("too_large", f"the body has more than {most} bytes")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Failure("unsupported", "content encodings are not read: send the body as it is")
    return b"".join(parts)


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
        ClientDisconnect: it has left.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await task
    finally:
        task.cancel()
        gone.cancel()


async def metadata(request: Request) -> Response:
    return JSONResponse(request.app.state.service.metadata)


async def healthz(_: Request) -> Response:
    return PlainTextResponse("OK\n")


async def readyz(request: Request) -> Response:
    request.app.state.service.check_ready()
    return PlainTextResponse("ready\n")


async def metrics(request: Request) -> Response:
    text, kind = request.app.state.service.metrics.text()
    return Response(text, media_type=kind)


ROUTES = (
    Route("/act", act, methods=["POST"]),
    Route("/metadata", metadata),
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    Route("/metrics", metrics),
)


def respond(failure: Failure, close: bool = False) -> Response:
    """close: the connection ends with it, as it must when the request was not read to its end."""
    headers = {**failure.headers(), "connection": "close"} if close else failure.headers()
    return Response(failure.body() + "\n", failure.kind.status, headers)


async def refuse(failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
    """`respond` to a request that was not read. It is read for a while first: who still sends does not hear."""
    try:
        async with asyncio.timeout(LISTEN_S):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass
    await respond(failure, close=True)(scope, receive, send)


async def on_failure(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, Failure)
    return respond(failure, close=failure.code in ("too_slow", "too_large"))


async def on_http(request: Request, error: Exception) -> Response:
    """Paths and methods that are not there."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    if error.status_code not in codes:
        return Response(error.detail, error.status_code, error.headers)
    failure = Failure(codes[error.status_code], f"{request.method} {request.url.path}: {error.detail.lower()}")
    request.app.state.service.count(failure)
    return respond(failure, close=request.method not in ("GET", "HEAD"))


async def on_bug(request: Request, error: Exception) -> Response:
    failure = Failure("internal", f"the server failed with {type(error).__name__}: see its log")
    request.app.state.service.count(failure)
    return respond(failure)
