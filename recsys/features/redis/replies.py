"""Answers of a server, taken from a stream of bytes: many replies at a time.

Answers of one shape are taken as arrays (``regular_rows.py``), all others by hiredis, in C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis

from recsys.features.redis.regular_rows import Irregular, RowScan, RowShape, size_of

_MORE = object()
_BUFFER_BYTES = 1 << 18
_MAX_SCANNED_BYTES = 1 << 22
"""An answer that may be larger goes to hiredis, which keeps no more of it than a piece."""


class ErrorReply(Exception):  # noqa: N818  (it is an answer; whether it is an error is the caller's)
    """A server refused a command, in its own words: ``MOVED 42 10.0.0.1:6379``."""

    @property
    def code(self) -> str:
        """Its first word."""
        return str(self).partition(" ")[0]


class Replies:
    """The replies of one connection: say what is wanted, fill ``space``, and tell how much came."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=ErrorReply, notEnoughData=_MORE)
        self._own = bytearray(_BUFFER_BYTES)
        self._buffer = self._own
        self._view = memoryview(self._own)
        self._scan: RowScan | None = None
        self._scanned = 0
        """Bytes that have come and were not handed to hiredis."""
        self._count = 0
        self._taken: list[Any] = []

    def expect(self, count: int, shapes: Sequence[tuple[int, RowShape]] = ()) -> None:
        """Begin an answer of ``count`` replies, of these shapes if they are regular."""
        self._count, self._scan, self._scanned = count, None, 0
        if not shapes:
            return
        size = size_of(shapes)
        if size > _MAX_SCANNED_BYTES:
            return
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            self._view = memoryview(self._buffer)
        self._scan = RowScan(shapes, self._buffer)

    def space(self) -> memoryview:
        """Give where the next bytes of the answer may be put."""
        return self._view if self._scan is None else self._view[self._scanned : self._scan.limit]

    def received(self, length: int) -> list[Any] | None:
        """Give the replies when ``length`` bytes more are the last; ``None`` when some are to come.

        Regular rows are given as ``RegularReplies``, all others as they are.

        Raises:
            ConnectionError: when the bytes are not Redis's protocol, or more came than was asked
                for: nothing on this connection can be trusted any more.
        """
        if self._scan is None:
            self._reader.feed(self._buffer, 0, length)  # type: ignore[arg-type]
            return self._take()
        self._scanned += length
        try:
            if not self._scan.advance(self._scanned):
                return None
            rows: list[Any] = self._scan.rows()
        except Irregular:
            self._reader.feed(self._buffer, 0, self._scanned)  # type: ignore[arg-type]
            self._scan, self._scanned = None, 0
            return self._take()
        self._done()
        return rows

    def _done(self) -> None:
        self._scan, self._scanned, self._count = None, 0, 0
        if self._buffer is not self._own:
            self._buffer = self._own
            self._view = memoryview(self._own)

    def _take(self) -> list[Any] | None:
        taken, gets = self._taken, self._reader.gets
        try:
            for _ in range(self._count - len(taken)):
                reply = gets()
                if reply is _MORE:
                    return None
                taken.append(reply)
        except hiredis.ProtocolError as error:
            raise ConnectionError(f"this is no Redis: {error}") from error
        if self._reader.has_data():
            raise ConnectionError("Redis answered more than it was asked")
        self._taken = []
        self._done()
        return taken

    @property
    def has_begun(self) -> bool:
        """Whether any part of an answer has come."""
        return bool(self._scanned) or bool(self._taken) or bool(self._reader.has_data())
