"""The ASGI application: FastAPI for the documentation pages, plain routes for the work."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from recsys import __version__
from recsys.errors import RecsysError
from serving.api.border import Border
from serving.api.endpoints import ENDPOINTS
from serving.api.gate import Gate
from serving.api.openapi import openapi_document
from serving.api.overload import Overload
from serving.api.problems import Problem, problem_of
from serving.api.services import Services

logger = logging.getLogger(__name__)

OpenServices = Callable[[], AbstractAsyncContextManager[Services]]
ServeBeside = Callable[[ASGIApp], AbstractAsyncContextManager[object]]
CLIENT_GONE = 499
"""Status counted when the caller hung up before it was answered."""


def create_app(
    open_services: OpenServices,
    gate: Gate | None = None,
    overload: Overload | None = None,
    *,
    serve_beside: ServeBeside | None = None,
) -> ASGIApp:
    """Give the application.

    Args:
        serve_beside: Serves the finished application in another way too, while it runs.
        gate: Who may pass; ``None`` lets everyone in.
        overload: Turns requests away when there are too many; ``None``: all are answered.
        open_services: Called when the event loop runs; its services live as long as the app. It
            must not wait for other servers: ``/healthz`` answers from the start.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = overload.watching() if overload is not None else nullcontext()
        async with open_services() as services, watching:
            app.state.services = services
            async with nullcontext() if serve_beside is None else serve_beside(border):
                yield
        if gate is not None:
            await gate.aclose()

    # /docs with its scripts from this process: a closed network shows it too.
    app = FastAPIOffline(
        title="recsys",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # another path is another identity, or none
    )
    handlers = [
        (endpoint, gate.guarded(endpoint) if gate is not None else endpoint.handler)
        for endpoint in ENDPOINTS
    ]
    for endpoint, handler in handlers:
        app.add_route(endpoint.route_path, handler, methods=[endpoint.method])
    document = openapi_document()
    app.openapi = lambda: document  # type: ignore[method-assign]
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _method_not_allowed)
    for expected in (Problem, RecsysError, ClientDisconnect, Exception):
        app.add_exception_handler(expected, _answer_error)
    hot = {
        (endpoint.method, endpoint.path): handler
        for endpoint, handler in handlers
        if endpoint.method == "POST"
    }
    border = Border(app, hot, _answer_error, overload)
    return border


async def _not_found(request: Request, error: Exception) -> Response:
    path = request.url.path[:128]
    return Problem("not_found", f"no such path: {path}; /docs lists them").response()


async def _method_not_allowed(request: Request, error: Exception) -> Response:
    response = Problem(
        "method_not_allowed", f"{request.method} is not for {request.url.path[:128]}; see /docs"
    ).response()
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    if isinstance(error, RecsysError):
        problem = problem_of(error)
        if problem.code != "internal":
            return problem.response()
    logger.error("request failed: %s %s", request.method, request.url.path, exc_info=error)
    return Problem("internal", "the server failed on this request; its log says more").response()
