"""The gate before each endpoint: the right port, a known caller, an allowed scope, not too often.

It stands around the handler itself, so that no way to a handler leads past it, whatever the router
makes of a path.
"""

from __future__ import annotations

import math
from functools import wraps

from starlette.requests import Request
from starlette.responses import Response

from recsys.security.authenticator import AccessError, Authenticator
from recsys.security.rate_limit import RateLimitedError, RateLimiter
from recsys.security.scopes import CALLER, Principal
from recsys.telemetry import ACCESS_REFUSED
from recsys.wire import MAX_BODY_BYTES
from serving.api.endpoints import Endpoint, Handler
from serving.api.problems import Problem

_CHALLENGE = 'Bearer realm="recsys"'


class Gate:
    """Decides who passes."""

    def __init__(
        self,
        authenticator: Authenticator | None = None,
        *,
        admin_port: int | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        """Guard endpoints.

        Args:
            authenticator: Tells who calls; ``None``: nobody is asked.
            admin_port: Where the admin endpoints alone are; ``None``: with the others.
            limiter: Asked about each request of a known caller that was let in.
        """
        self._authenticator = authenticator
        self._admin_port = admin_port
        self._limiter = limiter

    def guarded(self, endpoint: Endpoint) -> Handler:
        """Give the endpoint's handler with the gate before it."""

        @wraps(endpoint.handler)
        async def handler(request: Request) -> Response:
            try:
                if self._admin_port is not None:
                    self._check_port(request, endpoint)
                if self._authenticator is None:
                    return await endpoint.handler(request)
                caller = self._caller(self._authenticator, request, endpoint)
                request.scope[CALLER] = caller
                headers = {}
                if self._limiter is not None and caller and endpoint.access != "public":
                    headers = await self._limiter.admit(caller)
            except RateLimitedError as error:
                ACCESS_REFUSED.labels(endpoint.handler.__name__, "rate").inc()
                headers = {"Retry-After": str(math.ceil(error.retry_after_s)), **error.headers}
                raise Problem(
                    "rate_limited", str(error), headers=headers, close=_must_hang_up(request)
                ) from error
            except Problem as problem:
                problem.close = _must_hang_up(request)
                raise
            response = await endpoint.handler(request)
            if headers:
                response.headers.update(headers)
            return response

        return handler

    async def aclose(self) -> None:
        """Let go of what counts."""
        if self._limiter is not None:
            await self._limiter.aclose()

    def _check_port(self, request: Request, endpoint: Endpoint) -> None:
        if endpoint.access == "public":
            return
        # The port of our own socket, not what the caller's Host header says.
        server = request.scope.get("server")
        is_admin_port = server is not None and server[1] == self._admin_port
        if is_admin_port != (endpoint.access == "admin"):
            where = "the API's own port" if is_admin_port else "the admin port"
            raise Problem("not_found", f"{endpoint.path} is on {where}")

    def _caller(
        self, authenticator: Authenticator, request: Request, endpoint: Endpoint
    ) -> Principal | None:
        headers = request.headers
        try:
            caller = authenticator.authenticate(
                headers.get("authorization"), headers.get("x-api-key")
            )
        except AccessError as error:
            if endpoint.access == "public":
                return None
            ACCESS_REFUSED.labels(endpoint.handler.__name__, error.reason).inc()
            raise Problem(
                "unauthenticated", str(error), headers={"WWW-Authenticate": _CHALLENGE}
            ) from error
        if endpoint.access != "public" and endpoint.access not in caller.scopes:
            ACCESS_REFUSED.labels(endpoint.handler.__name__, "scope").inc()
            raise Problem(
                "forbidden",
                f"wanted the scope {endpoint.access}, found {', '.join(sorted(caller.scopes))}",
                headers={
                    "WWW-Authenticate": (
                        f'{_CHALLENGE}, error="insufficient_scope", scope="{endpoint.access}"'
                    )
                },
            )
        return caller


def _must_hang_up(request: Request) -> bool:
    """Say whether more may follow than is worth being read and thrown away for a stranger.

    After ``Expect: 100-continue`` no body follows the refusal, so that what comes next on the
    connection could not be told from it.
    """
    if "transfer-encoding" in request.headers or "expect" in request.headers:
        return True
    stated = request.headers.get("content-length", "0")
    return not stated.isdigit() or int(stated) > MAX_BODY_BYTES
