"""A moment as it is typed on a command line."""

from __future__ import annotations

from datetime import UTC, datetime

from recsys.clock import now_ms
from recsys.errors import InputError


def parse_moment(text: str) -> int:
    """Give the epoch ms of ``now``, epoch milliseconds, or ISO 8601 (UTC unless it says).

    Raises:
        InputError: when it is none of these.

    >>> parse_moment("2011-12-09T12:50") == parse_moment("2011-12-09T13:50+01:00")
    True
    """
    text = text.strip()
    if text == "now":
        return now_ms()
    if text.isdigit() and len(text) >= 12:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f'wanted a time: "now", epoch milliseconds or ISO 8601 such as 2011-12-09T12:50; '
            f'found "{text}"'
        ) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def spelt(moment_ms: int) -> str:
    """Give a moment as ISO 8601 in UTC, seconds; odd ones as a number.

    >>> spelt(1323435000000)
    '2011-12-09T12:50:00Z'
    """
    try:
        return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(moment_ms)


def age(milliseconds: int | float) -> str:
    """Give a duration in the unit that fits.

    >>> [age(ms) for ms in (250, 5_000, 7_200_000, 172_800_000, 503_712_000_000)]
    ['250 ms', '5 s', '2 h', '2 d', '5,830 d']
    """
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if abs(milliseconds) >= size:
            count = milliseconds / size
            return f"{count:,.0f} {unit}" if abs(count) >= 999.5 else f"{count:.3g} {unit}"
    return f"{milliseconds:.0f} ms"
