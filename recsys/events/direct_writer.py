"""Appending to the log alone: what it does not acknowledge in time is told to the caller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from recsys.errors import ServerError
from recsys.events.log import EventWriter
from recsys.events.spool_groups import LogRecord

logger = logging.getLogger(__name__)


class Appender(Protocol):
    """Appends records for good: ``DirectWriter``, or ``SpooledWriter`` with a disk behind it."""

    def start(self) -> None:
        """Connect, so that the first record does not wait for it. Never raises."""

    def append_all(self, records: Sequence[LogRecord]) -> None:
        """Return once every record is safe; one thread at a time.

        Raises:
            ServerError: when that cannot be promised. Records may still arrive.
        """

    def described(self) -> str:
        """Say what waits, for ``/readyz``. Raises ServerError when no more is taken."""

    def close(self) -> None:
        """Let go. Never raises."""


class DirectWriter:
    """See ``SpooledWriter``, of which this is the half without a disk. One thread may append."""

    def __init__(self, connect: Callable[[], EventWriter], *, ack_timeout_s: float = 5.0) -> None:
        self._connect = connect
        self._ack_timeout_s = ack_timeout_s
        self._writer: EventWriter | None = None

    def start(self) -> None:
        """See ``Appender.start``."""
        try:
            self._connected()
        except ServerError as error:
            logger.warning("no connection to the event log yet: %s", error)

    def append_all(self, records: Sequence[LogRecord]) -> None:
        """See ``Appender.append_all``: the log has acknowledged them."""
        self._connected().append_all(records, timeout_s=self._ack_timeout_s)

    def described(self) -> str:
        """See ``Appender.described``."""
        return "off: what the event log does not take is refused"

    def close(self) -> None:
        """See ``Appender.close``."""
        if self._writer is not None:
            try:
                self._writer.close()
            except ServerError as error:
                logger.warning("the event log did not close cleanly: %s", error)

    def _connected(self) -> EventWriter:
        if self._writer is None:
            self._writer = self._connect()
        return self._writer
