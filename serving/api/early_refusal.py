"""Refusing as soon as the head of a request is read: no task, no scope passed on, one write.

Ten times too many requests are mostly refusals, and each that waits for its turn in the event loop
makes those that are answered wait at every step of theirs. Only what is refused for sure ends here;
all else goes uvicorn's way, and is decided in ``overload.py``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api.border import count_answer
from serving.api.endpoints import ENDPOINTS
from serving.api.overload import SHED_PATHS, Overload

_ROUTES = {
    (endpoint.method.encode(), endpoint.path.encode()): endpoint.handler.__name__
    for endpoint in ENDPOINTS
    if endpoint.path in SHED_PATHS
}
"""Names, as counted, of what may be refused."""
_NOT_PLAIN = frozenset({b"expect", b"transfer-encoding"})
"""Headers of requests that are left to uvicorn: what follows the refusal is to be told apart."""


def refusing_protocol(overload: Overload | None) -> type[HttpToolsProtocol]:
    """Give the protocol of a process whose requests ``overload`` decides about.

    ``None``: nobody is refused, which is uvicorn's own.
    """
    if overload is None:
        return HttpToolsProtocol
    refusal = overload.refusal
    # What uvicorn asks of a request that has been answered: it reads the body and drops it.
    answered = SimpleNamespace(
        response_complete=True, message_event=SimpleNamespace(set=lambda: None)
    )

    class Refusing(HttpToolsProtocol):
        """Answers 503 from the head of a request, while the process is full."""

        cycle: Any

        def on_headers_complete(self) -> None:
            route = None
            if overload.is_full and self._may_be_answered_now():
                route = _ROUTES.get((self.parser.get_method(), self.url))
            if route is None:
                super().on_headers_complete()
                return
            overload.decide(self.scope)
            self.cycle = answered
            self.transport.write(refusal)
            count_answer(route, 503, 0.0)
            self.on_response_complete()

        def _may_be_answered_now(self) -> bool:
            """Say whether it is a plain request, whose predecessors are answered."""
            return (
                (self.cycle is None or self.cycle.response_complete)
                and self.parser.get_http_version() == "1.1"
                and self.parser.should_keep_alive()
                and not self.parser.should_upgrade()
                and not self.flow.write_paused
                and not any(name in _NOT_PLAIN for name, _ in self.headers)
            )

    return Refusing
