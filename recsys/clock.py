"""The one place that asks the machine for the time, so that tests can say what time it is.

Times are milliseconds since 1970-01-01 UTC in an ``int`` unless a name says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Gives the present as epoch milliseconds (UTC)."""

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS


def now_ms() -> int:
    """Give the present as epoch milliseconds (UTC)."""
    return time.time_ns() // 1_000_000
