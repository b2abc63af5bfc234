"""The outermost layer: every request is counted and timed, whatever became of it."""

from __future__ import annotations

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.telemetry import REQUEST_SECONDS, REQUESTS


class Border:
    """ASGI middleware, written plainly: it runs once per request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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

        try:
            await self._app(scope, receive, watch)
        except Exception:
            if not status:  # else it was answered and logged, and is only passed on
                raise
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "none")
            REQUESTS.labels(route, status).inc()
            REQUEST_SECONDS.labels(route).observe(perf_counter() - start)
