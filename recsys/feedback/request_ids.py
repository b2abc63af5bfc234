"""Ids of requests that say when they were made, so that an answer is found by its id alone.

Source: RFC 9562, section 5.7 (UUID version 7): 48 bits of epoch milliseconds, then chance.
"""

from __future__ import annotations

import re
import secrets

from recsys.clock import now_ms

_VERSION_7 = re.compile(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}")


def new_request_id(at_ms: int | None = None) -> str:
    """Give an id nobody has: 32 hexadecimal digits; ``at_ms``: when, default now."""
    moment = now_ms() if at_ms is None else at_ms
    chance = secrets.randbits(74)
    number = (moment & (2**48 - 1)) << 80 | 7 << 76 | (chance >> 62) << 64
    number |= 2 << 62 | chance & (2**62 - 1)
    return f"{number:032x}"


def made_ms(request_id: str) -> int | None:
    """Give when an id of ours was made, epoch ms; ``None`` for an id that does not say.

    >>> made_ms(new_request_id(1_767_225_600_000))
    1767225600000
    >>> made_ms("order-17") is None
    True
    """
    if not _VERSION_7.fullmatch(request_id):
        return None
    return int(request_id[:12], 16)
