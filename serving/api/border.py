"""The outermost layer: every request is counted and timed, whatever became of it.

The hot routes are answered from here. Between here and a route, FastAPI and Starlette pass every
request and every message of its answer through eight layers, which cost more than decoding it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from time import perf_counter

from prometheus_client import Counter, Histogram
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from recsys.telemetry import REQUEST_SECONDS, REQUESTS
from serving.api.deadlines import note_arrival
from serving.api.decoding import check_url
from serving.api.overload import SHED_PATHS, Overload, whole_body
from serving.api.problems import Problem

Handler = Callable[[Request], Awaitable[Response]]
ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]


class Border:
    """ASGI middleware, written plainly: it runs once per request."""

    def __init__(
        self,
        app: Starlette,
        hot: Mapping[tuple[str, str], Handler],
        on_error: ErrorHandler,
        overload: Overload | None = None,
    ) -> None:
        """Stand around ``app``.

        Args:
            app: Answers everything else.
            hot: Handlers by method and path.
            on_error: Answers for what a hot handler raises.
            overload: Turns hot requests away; ``None``: none is.
        """
        self._overload = overload
        self._app = app
        self._hot = hot
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note status and time."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        note_arrival(scope)
        handler = self._hot.get((scope["method"], scope["path"]))
        admission = self._overload if handler is not None and scope["path"] in SHED_PATHS else None
        admitted_s = 0.0
        try:
            if admission is not None:
                scope["endpoint"] = handler
                if not admission.is_full:
                    receive = await whole_body(scope, receive)
                verdict = admission.decide(scope)
                if verdict == "refused":
                    status = await admission.refuse(scope, send)
                    return
                if verdict == "servers":
                    admitted_s = perf_counter()
            try:
                check_url(scope)
            except Problem as problem:
                await problem.response()(scope, receive, watch)
                return
            if handler is not None:
                scope["app"] = self._app
                scope["endpoint"] = handler
                request = Request(scope, receive)
                try:
                    response = await handler(request)
                except Exception as error:  # noqa: BLE001  a caller gets an answer whatever it was
                    response = await self._on_error(request, error)
                await response(scope, receive, watch)
            else:
                await self._app(scope, receive, watch)
        except Exception:
            if not status:  # else it was answered and logged, and is only passed on
                raise
        finally:
            if admission is not None and admitted_s:
                admission.done(perf_counter() - admitted_s, was_answered=status == 200)
            route = getattr(scope.get("endpoint"), "__name__", "none")
            count_answer(route, status, perf_counter() - start)


def count_answer(route: str, status: int, seconds: float) -> None:
    """Count an answer and its time; ``route`` is its handler's name."""
    answers, times = _metrics_of(route, status)
    answers.inc()
    times.observe(seconds)


@lru_cache(maxsize=256)
def _metrics_of(route: str, status: int) -> tuple[Counter, Histogram]:
    """Give what counts and times these answers, without a look-up under a lock each time."""
    return REQUESTS.labels(route, status), REQUEST_SECONDS.labels(route)
