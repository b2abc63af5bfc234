"""How a connection begins, with either client: its first commands, the patience, the errors.

The sockets are each client's own (``connection.py``, ``async_client.py``).
"""

from __future__ import annotations

from typing import Any

from recsys.errors import ServerError
from recsys.features.redis.address import Address
from recsys.features.redis.commands import pack
from recsys.features.redis.replies import ErrorReply

TIMEOUT_S = 2.0
"""Longest wait for Redis to connect and answer; callers with a deadline set their own."""


def greeting(address: Address, *, to_replica: bool) -> list[bytes]:
    """Give the commands a new connection begins with."""
    commands = []
    if address.password is not None:
        names = [address.username] if address.username else []
        commands.append(pack(b"AUTH", *(name.encode() for name in [*names, address.password])))
    if address.database:
        commands.append(pack(b"SELECT", b"%d" % address.database))
    if to_replica:
        commands.append(pack(b"READONLY"))
    return commands


def refused(replies: list[Any]) -> None:
    """Raise the first error among the replies to a greeting."""
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise reply


def unreachable(address: Address, error: Exception) -> ServerError:
    """Give the error for a caller: which Redis, and what it did."""
    return ServerError(
        f"wanted features from Redis at {address}, found {type(error).__name__}: {error}; "
        "see `recsys status`"
    )
