"""Answers of a server, taken from a stream of bytes: hiredis in C, many replies at a time."""

from __future__ import annotations

from typing import Any

import hiredis

_MORE = object()


class ErrorReply(Exception):  # noqa: N818  (it is an answer; whether it is an error is the caller's)
    """A server refused a command, in its own words: ``MOVED 42 10.0.0.1:6379``."""

    @property
    def code(self) -> str:
        """Its first word."""
        return str(self).partition(" ")[0]


class Replies:
    """The replies of one connection. Feed it what arrives and take what was asked for."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=ErrorReply, notEnoughData=_MORE)
        self.feed = self._reader.feed
        """Takes ``(buffer, offset, length)`` or bytes."""
        self._taken: list[Any] = []

    def take(self, count: int) -> list[Any] | None:
        """Give ``count`` replies, or ``None`` while some are still on their way.

        Raises:
            ConnectionError: when the bytes are not Redis's protocol, or more came than was asked
                for: nothing on this connection can be trusted any more.
        """
        taken, gets = self._taken, self._reader.gets
        try:
            for _ in range(count - len(taken)):
                reply = gets()
                if reply is _MORE:
                    return None
                taken.append(reply)
        except hiredis.ProtocolError as error:
            raise ConnectionError(f"this is no Redis: {error}") from error
        if self._reader.has_data():
            raise ConnectionError("Redis answered more than it was asked")
        self._taken = []
        return taken

    @property
    def has_begun(self) -> bool:
        """Whether any part of an answer has come."""
        return bool(self._taken) or bool(self._reader.has_data())
