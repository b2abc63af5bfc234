"""Where a request's time goes, by stage: one clock for the metrics and for what an answer says.

A request is a task, and what it awaits in its own task is its own; so the stages it went through
gather in a context variable, and nobody hands them on. Work that several requests share counts for
each with all the time it waited.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

from recsys.telemetry import stage_seconds

SERVER_TIMING = "Server-Timing"
"""Header of an answer that says where its time went (W3C Server Timing, section 3)."""
_spent: ContextVar[list[tuple[str, float]] | None] = ContextVar("spent", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage, whether it answers or fails."""
    start = perf_counter()
    try:
        yield
    finally:
        seconds = perf_counter() - start
        stage_seconds(name).observe(seconds)
        spent = _spent.get()
        if spent is not None:
            spent.append((name, seconds))


def note_stages() -> None:
    """Gather this request's stages from now on."""
    _spent.set([])


def server_timing() -> str:
    """Give this request's stages so far as a header's value: milliseconds, in the order they ended.

    ``""`` when there were none.
    """
    return ", ".join(f"{name};dur={seconds * 1e3:.3f}" for name, seconds in _spent.get() or ())
