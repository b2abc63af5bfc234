"""How long the caller of a request waits, as it says in a header.

HTTP has no standard header for it. Ours is ``X-Request-Timeout-Ms``; without it, what Envoy and
the meshes built on it tell each server counts, ``X-Envoy-Expected-Rq-Timeout-Ms``: proxies set that
one by themselves, so a deadline travels through them. gRPC has ``grpc-timeout``.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.types import Scope

from recsys.deadline import Deadline
from recsys.pipeline import Pipeline
from serving.api.problems import Problem

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_OUR_HEADER = TIMEOUT_HEADER.lower().encode()
_PROXY_HEADER = b"x-envoy-expected-rq-timeout-ms"
_MAX_DIGITS = 9
_RECEIVED_S = "recsys.received_s"


def note_arrival(scope: Scope) -> None:
    """Write down when a request came: its time runs from here, not from its last byte."""
    scope[_RECEIVED_S] = time.monotonic()


def deadline_of(request: Request, pipeline: Pipeline) -> Deadline:
    """Give the moment by which the caller wants its answer, within what the server allows.

    Raises:
        Problem: ``invalid`` when our header is no positive number of milliseconds. A proxy's that
            is none is ignored: the caller did not write it.
    """
    said = expected = None
    for name, value in request.scope["headers"]:
        if name == _OUR_HEADER and said is None:
            said = value.decode("latin-1")
        elif name == _PROXY_HEADER and expected is None:
            expected = value.decode("latin-1")
    wanted_ms = None
    if said is not None:
        if (wanted_ms := _milliseconds(said)) is None:
            raise Problem(
                "invalid",
                f"{TIMEOUT_HEADER}: wanted whole milliseconds from 1, found {said[:20]!r}",
                field=TIMEOUT_HEADER,
            )
    elif expected is not None:
        wanted_ms = _milliseconds(expected)
    waited_s = time.monotonic() - request.scope.get(_RECEIVED_S, time.monotonic())
    return pipeline.deadline(wanted_ms, waited_s=waited_s)


def _milliseconds(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        return None
    return int(text) or None
