"""Records kept on disk while the log is away: fsynced before they count as taken, and checked.

A spool is one SQLite file (WAL, ``synchronous=FULL``) of *groups*: records that were added together
are one row, so that a busy process pays one fsync for many callers. A group leaves the file once
the log has acknowledged all of it; a process killed between the two sends it again.

Nothing that was taken is dropped to make room. A spool that is full, or whose oldest record has
waited too long, refuses new ones instead.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from recsys.clock import Clock, now_ms
from recsys.errors import ConfigurationError, SpoolRefusalError
from recsys.events.durable_files import make_directory, sync_directory

logger = logging.getLogger(__name__)

LogRecord = tuple[str, bytes, bytes]
"""Topic, key, value."""

GROUP_RECORDS, GROUP_BYTES = 1_000, 1_000_000
"""Longest group: what is sent at once, and what is sent again after a kill. A sender that is told
nothing repeats a group at most a few times, which stays well inside the 10,000 records over which
an event sent twice counts once (``features/duplicates.py``)."""
_FORMAT = 1
_PAGE_BYTES = 4_096
_SHRINK_BYTES = 8 * 1024 * 1024
"""An empty file larger than this is made small again."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[LogRecord]).decode


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
    """Records that were added together, in order."""

    number: int
    records: list[LogRecord]


class Spool:
    """One file, owned by one process. Thread-safe."""

    def __init__(
        self, path: Path, bounds: SpoolBounds = SpoolBounds(), *, clock: Clock = now_ms
    ) -> None:
        """Open the file, or make it; what an earlier process left in it waits.

        A file that cannot be read at all is moved aside, under a name that says so, and an ERROR
        names it: what can be saved from it, ``sqlite3 FILE .recover`` saves.

        Raises:
            ConfigurationError: when the file cannot be made or belongs to a running process.
        """
        self.path = path
        self._bounds = bounds
        self._clock = clock
        self._lock = threading.Lock()
        self._db: sqlite3.Connection
        self._num_records, self._num_bytes = 0, 0
        self._oldest_ms: int | None = None
        self._sent_to = 0
        """Groups up to this number are sent, whether or not they could be removed."""
        try:
            make_directory(path.parent)
            try:
                self._open()
            except sqlite3.DatabaseError as error:
                self._begin_anew(error)
        except (sqlite3.Error, OSError) as error:
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
        num_bytes = _size(records)
        with self._lock:
            self._check(num_bytes)
            added_ms = self._clock()
            rows = []
            for group in _groups(records):
                data = _pack(group)
                rows.append((zlib.crc32(data), len(group), _size(group), added_ms, data))
            try:
                with self._written(durably=True):
                    self._db.executemany(
                        "INSERT INTO groups (crc, num_records, num_bytes, added_ms, data) "
                        "VALUES (?, ?, ?, ?, ?)",
                        rows,
                    )
            except sqlite3.Error as error:
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
            try:
                return self._first()
            except sqlite3.DatabaseError as error:
                try:
                    self._begin_anew(error)
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
            self._num_bytes -= _size(group.records)
            try:
                with self._written(durably=False):
                    self._db.execute("DELETE FROM groups WHERE number <= ?", (group.number,))
                if not self._num_records:
                    self._shrink()
                self._oldest_ms = self._find_oldest()
            except sqlite3.Error as error:
                logger.warning("%s: sent records could not be removed: %s", self.path, error)
                if not self._num_records:
                    self._oldest_ms = None

    def keep_refused(self, record: LogRecord, reason: str) -> None:
        """Keep a record that the log will never take, out of the way of the others.

        Raises:
            SpoolRefusalError: when the disk has no room for it.
        """
        with self._lock:
            try:
                with self._written(durably=True):
                    self._insert_refused(_pack([record]), reason)
            except sqlite3.Error as error:
                raise SpoolRefusalError(f"{self.path}: {error}", reason="disk") from error

    def refused(self) -> list[tuple[str, bytes]]:
        """Give reason and bytes of what was set aside: msgpack of ``[topic, key, value]`` each."""
        with self._lock:
            return list(self._db.execute("SELECT reason, data FROM refused ORDER BY number"))

    def close(self) -> None:
        """Let go of the file; without records it is removed."""
        with self._lock:
            kept = self._db.execute("SELECT count(*) FROM refused").fetchone()[0]
            empty = not self._num_records and not kept
            with suppress(sqlite3.Error):
                self._db.close()
            if empty:
                for suffix in ("", "-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _open(self) -> None:
        self._db = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=0.0
        )
        try:
            # Alone on the file: no shared memory beside it, and a second process is refused.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA journal_size_limit = {_SHRINK_BYTES}")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _FORMAT):
                raise sqlite3.OperationalError(f"a spool of format {found}, wanted {_FORMAT}")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS groups (number INTEGER PRIMARY KEY AUTOINCREMENT, "
                "crc INTEGER NOT NULL, num_records INTEGER NOT NULL, num_bytes INTEGER NOT NULL, "
                "added_ms INTEGER NOT NULL, data BLOB NOT NULL)"  # last: counting reads no blobs
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS refused (number INTEGER PRIMARY KEY AUTOINCREMENT, "
                "data BLOB NOT NULL, reason TEXT NOT NULL, added_ms INTEGER NOT NULL)"
            )
            self._db.execute(f"PRAGMA user_version = {_FORMAT}")
            self._db.execute("COMMIT")
            self._num_records, self._num_bytes = self._db.execute(
                "SELECT coalesce(sum(num_records), 0), coalesce(sum(num_bytes), 0) FROM groups"
            ).fetchone()
            self._sent_to = 0
            self._oldest_ms = self._find_oldest()
        except BaseException:
            self._db.close()
            raise
        sync_directory(self.path.parent)

    def _first(self) -> Group | None:
        taken: list[LogRecord] = []
        num_bytes, last = 0, 0
        rows = self._db.execute(
            "SELECT number, data, crc, num_records, num_bytes FROM groups WHERE number > ? "
            "ORDER BY number LIMIT ?",
            (self._sent_to, GROUP_RECORDS),
        )
        damaged = []
        for number, data, crc, count, size in rows:
            if taken and (len(taken) + count > GROUP_RECORDS or num_bytes + size > GROUP_BYTES):
                break
            records = _checked(data, crc)
            if records is None:
                damaged.append((number, data, count, size))
                continue
            last = number
            taken += records
            num_bytes += size
        rows.close()
        for number, data, count, size in damaged:
            self._set_aside(number, data, count, size)
        return Group(last, taken) if last else None

    def _set_aside(self, number: int, data: bytes, count: int, size: int) -> None:
        logger.error(
            "%s: group %d of %d records is damaged and cannot be sent; it is kept in the table "
            "`refused`", self.path, number, count,
        )  # fmt: skip
        with self._written(durably=True):
            self._insert_refused(data, "damaged")
            self._db.execute("DELETE FROM groups WHERE number = ?", (number,))
        self._num_records -= count
        self._num_bytes -= size
        self._oldest_ms = self._find_oldest()

    def _find_oldest(self) -> int | None:
        row = self._db.execute(
            "SELECT added_ms FROM groups WHERE number > ? ORDER BY number LIMIT 1",
            (self._sent_to,),
        ).fetchone()
        return None if row is None else int(row[0])

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        """Put a file that is damaged, as opposed to locked or without room, out of the way."""
        if isinstance(error, sqlite3.OperationalError):
            raise error
        with suppress(sqlite3.Error):
            self._db.close()
        name = f"{self.path.name}.damaged-{uuid.uuid4().hex[:8]}"
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + suffix).rename(
                    self.path.with_name(name + suffix)
                )
        sync_directory(self.path.parent)
        logger.error(
            "%s cannot be read (%s) and was moved to %s; `sqlite3 %s .recover` saves what can be",
            self.path, error, name, name,
        )  # fmt: skip
        self._open()

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

    def _insert_refused(self, data: bytes, reason: str) -> None:
        self._db.execute(
            "INSERT INTO refused (data, reason, added_ms) VALUES (?, ?, ?)",
            (data, reason, self._clock()),
        )

    @contextmanager
    def _written(self, *, durably: bool) -> Iterator[None]:
        """One transaction; ``durably``: on the disk at its end, with all before it."""
        self._db.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # some failures have rolled back already
                self._db.execute("ROLLBACK")
            raise

    def _shrink(self) -> None:
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        if pages * _PAGE_BYTES > _SHRINK_BYTES:
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _size(records: Sequence[LogRecord]) -> int:
    return sum(len(key) + len(value) for _, key, value in records)


def _groups(records: Sequence[LogRecord]) -> Iterator[list[LogRecord]]:
    group: list[LogRecord] = []
    size = 0
    for record in records:
        own = len(record[1]) + len(record[2])
        if group and (len(group) == GROUP_RECORDS or size + own > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(record)
        size += own
    if group:
        yield group


def _checked(data: bytes, crc: int) -> list[LogRecord] | None:
    if zlib.crc32(data) != crc:
        return None
    try:
        return _unpack(data)
    except (msgspec.MsgspecError, ValueError):
        return None
