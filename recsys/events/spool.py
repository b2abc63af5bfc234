"""Records kept on disk while the log is away: fsynced before they count as taken, and checked.

Records that were added together are one *group* of the spool's file, so that a busy process pays
one fsync for many callers. A group leaves the file once the log has acknowledged all of it; a
process killed between the two sends it again.

Nothing that was taken is dropped to make room. A spool that is full, or whose oldest record has
waited too long, refuses new ones instead.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recsys.clock import Clock, now_ms
from recsys.errors import ConfigurationError, SpoolRefusalError
from recsys.events.spool_file import SpoolFile
from recsys.events.spool_groups import (
    GROUP_BYTES,
    GROUP_RECORDS,
    LogRecord,
    grouped,
    packed,
    size_of,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpoolBounds:
    """How much may wait, and for how long."""

    max_bytes: int = 1024**3
    """Of keys and values; the file is some percent larger."""
    max_age_s: float = 72 * 3600.0
    """When the oldest record has waited longer, new ones are refused: a log that is away for days
    wants an operator, not a larger file."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What a spool holds."""

    num_records: int
    num_bytes: int
    """Of keys and values."""
    oldest_ms: int | None
    """When the oldest record was added; ``None`` when nothing waits."""


@dataclass(frozen=True, slots=True)
class Group:
    """Records that travel together, in order."""

    number: int
    records: list[LogRecord]


class Spool:
    """One file, owned by one process. Thread-safe."""

    def __init__(
        self, path: Path, bounds: SpoolBounds = SpoolBounds(), *, clock: Clock = now_ms
    ) -> None:
        """Take over what an earlier process left in the file, if anything.

        A file that cannot be read at all is moved aside, under a name that says so, and an ERROR
        names it: what can be saved from it, ``sqlite3 FILE .recover`` saves.

        Raises:
            ConfigurationError: when the file cannot be made or belongs to a running process.
        """
        self.path = path
        self._bounds = bounds
        self._clock = clock
        self._lock = threading.Lock()
        self._file = SpoolFile(path)
        self._num_records, self._num_bytes = 0, 0
        self._oldest_ms: int | None = None
        self._sent_to = 0
        """Groups up to this number are sent, whether or not they could be removed."""
        try:
            self._file.open()
            self._count()
            self._file.remove_if_empty()
        except (sqlite3.Error, OSError) as error:
            self._file.close()
            raise ConfigurationError(
                f"{path}: wanted a spool for records the event log cannot take, found: {error}; "
                "free some space there, or set RECSYS_SPOOL_DIR to another folder"
            ) from error

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return self._num_records == 0

    @property
    def waiting(self) -> Waiting:
        """What waits to be sent."""
        with self._lock:
            return Waiting(
                num_records=self._num_records,
                num_bytes=self._num_bytes,
                oldest_ms=self._oldest_ms,
            )

    def check(self) -> None:
        """Raise SpoolRefusalError when nothing can be added."""
        with self._lock:
            self._check(0)

    def add(self, records: Sequence[LogRecord]) -> None:
        """Return once all ``records`` are on the disk for good; else none of them is.

        Raises:
            SpoolRefusalError: when there is no room, or the oldest waits for too long.
        """
        num_bytes = size_of(records)
        with self._lock:
            self._check(num_bytes)
            added_ms = self._clock()
            try:
                self._file.insert([packed(group) for group in grouped(records)], added_ms)
            except (sqlite3.Error, OSError) as error:
                raise SpoolRefusalError(
                    f"{self.path}: wanted room for {num_bytes} bytes, found: {error}; free some "
                    "space there", reason="disk",
                ) from error  # fmt: skip
            self._num_records += len(records)
            self._num_bytes += num_bytes
            if self._oldest_ms is None:
                self._oldest_ms = added_ms

    def first(self) -> Group | None:
        """Give the oldest records that wait, together as many as travel together.

        Groups that were small are put together; the number is that of the last of them. A damaged
        group is set aside, said and counted, and what follows it is given.

        Raises:
            SpoolRefusalError: when the file cannot be read now.
        """
        with self._lock:
            if self.is_empty:
                return None
            try:
                return self._first()
            except sqlite3.DatabaseError as error:
                try:
                    self._file.begin_anew(error)
                    self._count()
                except (sqlite3.Error, OSError):
                    raise SpoolRefusalError(
                        f"{self.path}: wanted to read what waits, found: {error}", reason="disk"
                    ) from error
                return None

    def remove(self, group: Group) -> None:
        """Forget a group of ``first``, which is sent. Never raises.

        Where the disk has no room even for that, it is forgotten by this process alone; the next
        one sends it again.
        """
        with self._lock:
            self._sent_to = group.number
            self._num_records -= len(group.records)
            self._num_bytes -= size_of(group.records)
            try:
                self._file.delete(group.number)
                self._oldest_ms = self._file.oldest_ms(self._sent_to)
                if not self._num_records:
                    self._file.remove_if_empty()
            except (sqlite3.Error, OSError) as error:
                logger.warning("%s: sent records could not be removed: %s", self.path, error)
                if not self._num_records:
                    self._oldest_ms = None
            if not self._file.is_there:
                self._sent_to = 0  # the next file counts from the beginning

    def keep_refused(self, record: LogRecord, reason: str) -> None:
        """Keep a record that the log will never take, out of the way of the others.

        Raises:
            SpoolRefusalError: when the disk has no room for it.
        """
        with self._lock:
            try:
                self._file.insert_refused(record, reason, self._clock())
            except (sqlite3.Error, OSError) as error:
                raise SpoolRefusalError(f"{self.path}: {error}", reason="disk") from error

    def refused(self) -> list[tuple[str, bytes]]:
        """Give reason and bytes of what was set aside: msgpack of ``[topic, key, value]`` each."""
        with self._lock:
            return self._file.refused()

    def count(self, is_meant: Callable[[LogRecord], bool]) -> int:
        """Count the records that are meant, waiting or set aside.

        Raises:
            ConfigurationError: when some of them are damaged, so that nobody can say.
        """
        num, damaged = 0, 0
        with self._lock:
            for records in self._file.everything():
                damaged += records is None
                num += sum(map(is_meant, records or ()))
        if damaged:
            raise ConfigurationError(
                f"{self.path}: wanted to look for records in it, found {damaged} damaged groups; "
                "save what can be saved of its table `refused`, remove them there and run the "
                "command again"
            )
        return num

    def erase(self, is_meant: Callable[[LogRecord], bool]) -> int:
        """Remove the records that are meant, waiting or set aside; gives how many.

        Raises:
            ConfigurationError: when the disk has no room for it.
        """
        with self._lock:
            try:
                num_erased = self._file.erase(is_meant)
                self._count()
                self._file.remove_if_empty()
            except (sqlite3.Error, OSError) as error:
                raise ConfigurationError(
                    f"{self.path}: wanted to remove records from it, found: {error}"
                ) from error
        return num_erased

    def close(self) -> None:
        """Let go of the file; when it holds nothing it is removed."""
        with self._lock:
            with suppress(sqlite3.Error, OSError):
                if not self._num_records:
                    self._file.remove_if_empty()
            self._file.close()

    def _count(self) -> None:
        self._sent_to = 0
        self._num_records, self._num_bytes = self._file.totals()
        self._oldest_ms = self._file.oldest_ms(0)

    def _first(self) -> Group | None:
        taken: list[LogRecord] = []
        num_bytes, last = 0, 0
        damaged = []
        for group in self._file.groups(self._sent_to, GROUP_RECORDS):
            if taken and (
                len(taken) + group.num_records > GROUP_RECORDS
                or num_bytes + group.num_bytes > GROUP_BYTES
            ):
                break
            if group.records is None:
                damaged.append(group)
                continue
            last = group.number
            taken += group.records
            num_bytes += group.num_bytes
        for group in damaged:
            logger.error(
                "%s: group %d of %d records is damaged and cannot be sent; it is kept in the table "
                "`refused`", self.path, group.number, group.num_records,
            )  # fmt: skip
            self._file.set_aside(group, self._clock())
            self._num_records -= group.num_records
            self._num_bytes -= group.num_bytes
        if damaged:
            self._oldest_ms = self._file.oldest_ms(self._sent_to)
        return Group(last, taken) if last else None

    def _check(self, num_bytes: int) -> None:
        if self._num_bytes + num_bytes > self._bounds.max_bytes:
            raise SpoolRefusalError(
                f"{self.path}: wanted room for {num_bytes} bytes, found {self._num_bytes} of "
                f"{self._bounds.max_bytes} taken; bring the event log back, or raise the bound",
                reason="full",
            )
        if self._oldest_ms is not None:
            age_s = (self._clock() - self._oldest_ms) / 1e3
            if age_s > self._bounds.max_age_s:
                raise SpoolRefusalError(
                    f"{self.path}: the oldest record waits for {age_s:.0f} s, wanted at most "
                    f"{self._bounds.max_age_s:g}; bring the event log back, or raise the bound",
                    reason="old",
                )
