"""Turning requests away at the border, before they cost anything.

Decided before body, key and route are looked at. A refusal is bytes made once; sending them costs a
twentieth of an answer, and that is all an overload costs the others. Health, metrics, events and
every other path are never turned away here: events have a bounded queue of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from http import HTTPStatus

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from recsys.resilience.admission import Admission, Verdict
from recsys.wire import MAX_BODY_BYTES
from serving.api.problems import Problem

SHED_PATHS = frozenset({"/v1/recommendations", "/v1/rank"})
_UNASKED = "recsys.unasked"
_TICK_S = 0.02
_MESSAGE = "more requests than can be answered in time; try again as Retry-After says"


class Overload:
    """Decides about the hot requests of one process."""

    def __init__(self, admission: Admission | None = None) -> None:
        self.admission = admission or Admission()
        self.lag_s = 0.0
        """How late the event loop was of late: what requests wait before anybody sees them."""
        refusal = Problem("overloaded", _MESSAGE).response()
        self._head = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
        self._body = bytes(refusal.body)
        self._status = refusal.status_code
        head = b"".join(b"%b: %b\r\n" % pair for pair in self._head)
        phrase = HTTPStatus(self._status).phrase.encode()
        self.refusal = b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (self._status, phrase, head, self._body)
        """All of it as it travels."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_timed = False
        """Whether the loop is to look at the clock shortly: only while requests come."""
        self._has_come = False
        """Whether one came since it last did."""

    @property
    def is_full(self) -> bool:
        """Whether a request would be refused now."""
        return self.admission.is_full

    def decide(self, scope: Scope) -> Verdict:
        """Say what a hot request gets; after ``servers``, ``done`` must follow."""
        self._has_come = True
        if not self._is_timed:
            self.lag_s = 0.0  # a loop with nothing to do is in time
            self._look_again()
        verdict = self.admission.enter()
        if verdict == "memory":
            scope[_UNASKED] = "overloaded"
        return verdict

    def done(self, seconds: float, *, was_answered: bool) -> None:
        """Take in that a request that asked the servers is done.

        What was refused for its key or its body says nothing about how long an answer takes.
        """
        self.admission.leave(seconds + self.lag_s if was_answered else None)

    async def refuse(self, scope: Scope, send: Send) -> int:
        """Send the refusal; gives its status."""
        head = self._head
        if any(name in (b"expect", b"transfer-encoding") for name, _ in scope["headers"]):
            head = [*head, (b"connection", b"close")]  # what follows cannot be told from a request
        await send({"type": "http.response.start", "status": self._status, "headers": head})
        await send({"type": "http.response.body", "body": self._body})
        return self._status

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Measure the event loop's lag for as long as this lasts."""
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None

    def _look_again(self) -> None:
        if self._loop is not None:
            self._is_timed = True
            self._loop.call_later(_TICK_S, self._look, time.perf_counter() + _TICK_S)

    def _look(self, due_s: float) -> None:
        """Note how late it is."""
        self.lag_s += 0.5 * (max(0.0, time.perf_counter() - due_s) - self.lag_s)
        self._is_timed = False
        if self._has_come:
            self._has_come = False
            self._look_again()


async def whole_body(scope: Scope, receive: Receive) -> Receive:
    """Read the body, as far as it may be long, and give a ``receive`` that gives it again.

    A place is for work: a caller whose body comes slowly must not hold one, nor count as slow.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > MAX_BODY_BYTES):
            return receive  # refused by whoever reads it, at once
    messages = deque([await receive()])
    size = len(messages[0].get("body", b""))
    while messages[-1].get("more_body") and size <= MAX_BODY_BYTES:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))

    async def again() -> Message:
        return messages.popleft() if messages else await receive()

    return again


def unasked_reason(request: Request) -> str:
    """Say why a request is answered from memory; ``""`` when it is not."""
    return str(request.scope.get(_UNASKED, ""))
