"""Asking until a change is seen, and between which moments it happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

SHARE = 0.05
"""The pause between two questions grows to this share of the time that has passed: what takes long
is measured as precisely, relative to itself, and a system that is behind is not asked more."""


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How it is asked."""

    pause_s: float = 0.01
    """Between an answer and the next question, at least."""
    timeout_s: float = 10.0
    """A change that was not seen by then is lost."""
    in_a_row: int = 3
    """Answers that must show a change, one after the other: one of several API processes may be
    behind. The first of them counts."""


@dataclass(kw_only=True)
class Watched:
    """What is known of one change so far, in seconds from when it was sent.

    The change became visible between ``at_least_s`` and ``at_most_s``: the former is when the last
    question was asked whose answer did not have it, the latter when the first answer had come of
    those that all did.
    """

    at_least_s: float = 0.0
    at_most_s: float | None = None
    """``None``: it was not seen."""
    num_asked: int = 0
    num_unusable: int = 0
    """Failed, or answered from a lower rung: evidence of nothing."""


async def watch(
    is_so: Callable[[], Awaitable[bool | None]],
    sent_s: float,
    config: WatchConfig,
    watched: Watched,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Ask ``is_so`` until it holds ``in_a_row`` times, or the time is over; tell whether it does.

    Notes in ``watched`` what is known at any moment: who is cancelled on the way has that much.
    """
    in_a_row, first_s = 0, 0.0
    while in_a_row or clock() - sent_s < config.timeout_s:
        asked_s = clock() - sent_s
        found = await is_so()
        answered_s = clock() - sent_s
        watched.num_asked += 1
        if found is None:
            watched.num_unusable += 1
            if answered_s > config.timeout_s:
                break
        elif found:
            first_s = first_s if in_a_row else answered_s
            in_a_row += 1
            if in_a_row == config.in_a_row:
                watched.at_most_s = first_s
                return True
        else:
            in_a_row = 0
            watched.at_least_s = asked_s
        await sleep(max(config.pause_s, 0.0 if in_a_row else SHARE * answered_s))
    return False
