"""The file of a spool: one SQLite database of groups, there only while it holds something.

``groups`` are those that wait, in the order of their numbers; ``refused`` is what will never be
sent. WAL and ``synchronous=FULL``: what was inserted outlives a power cut. An empty file is
removed, so that nothing of what was sent stays on the disk, and others can see from its being there
that something waits.

Methods raise ``sqlite3.Error`` and ``OSError`` as they come; the owner knows what they mean to
callers. Belongs to whoever holds the owner's lock.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from recsys.events.durable_files import make_directory, sync_directory
from recsys.events.spool_groups import LogRecord, PackedGroup, packed, unpacked

logger = logging.getLogger(__name__)

_FORMAT = 1
_PAGE_BYTES = 4_096
_MAX_JOURNAL_BYTES = 8 * 1024 * 1024
_DAMAGED = "damaged"
"""Reason of groups whose bytes are not what was written."""
_TABLES = (
    "CREATE TABLE IF NOT EXISTS groups (number INTEGER PRIMARY KEY AUTOINCREMENT, "
    "crc INTEGER NOT NULL, num_records INTEGER NOT NULL, num_bytes INTEGER NOT NULL, "
    "added_ms INTEGER NOT NULL, data BLOB NOT NULL)",  # last: counting reads no blobs
    "CREATE TABLE IF NOT EXISTS refused (number INTEGER PRIMARY KEY AUTOINCREMENT, "
    "data BLOB NOT NULL, reason TEXT NOT NULL, added_ms INTEGER NOT NULL)",
)


class Totals(NamedTuple):
    """Of the groups that wait."""

    num_records: int
    num_bytes: int


class KeptGroup(NamedTuple):
    """One group that waits."""

    number: int
    num_records: int
    num_bytes: int
    data: bytes
    records: list[LogRecord] | None
    """``None``: damaged."""


class SpoolFile:
    """Opened when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: sqlite3.Connection | None = None
        self._is_closed = False

    @property
    def is_there(self) -> bool:
        """Whether there is a file: it holds something, or did a moment ago."""
        return self._opened is not None or self.path.exists()

    def open(self) -> None:
        """Open the file, or make it and the folders above.

        One that cannot be read at all is moved aside, under a name that says so, and an ERROR names
        it.
        """
        if self._opened is not None:
            return
        if self._is_closed:
            raise sqlite3.ProgrammingError("the spool is closed")
        make_directory(self.path.parent)
        try:
            self._opened = _connected(self.path)
        except sqlite3.DatabaseError as error:
            self.begin_anew(error)

    def totals(self) -> Totals:
        """Count what waits."""
        return Totals(
            *self._db.execute(
                "SELECT coalesce(sum(num_records), 0), coalesce(sum(num_bytes), 0) FROM groups"
            ).fetchone()
        )

    def oldest_ms(self, after: int) -> int | None:
        """Give when the first group after number ``after`` was added; ``None``: there is none."""
        row = self._db.execute(
            "SELECT added_ms FROM groups WHERE number > ? ORDER BY number LIMIT 1", (after,)
        ).fetchone()
        return None if row is None else int(row[0])

    def insert(self, groups: Sequence[PackedGroup], added_ms: int) -> None:
        """Return once all ``groups`` are on the disk for good; else none of them is."""
        with self._written(durably=True) as db:
            db.executemany(
                "INSERT INTO groups (crc, num_records, num_bytes, added_ms, data) "
                "VALUES (?, ?, ?, ?, ?)",
                [(g.crc, g.num_records, g.num_bytes, added_ms, g.data) for g in groups],
            )

    def groups(self, after: int, limit: int) -> Iterator[KeptGroup]:
        """Give at most ``limit`` groups after number ``after``, in order."""
        rows = self._db.execute(
            "SELECT number, num_records, num_bytes, data, crc FROM groups WHERE number > ? "
            "ORDER BY number LIMIT ?",
            (after, limit),
        )
        with closing(rows):
            for number, num_records, num_bytes, data, crc in rows:
                yield KeptGroup(number, num_records, num_bytes, data, unpacked(data, crc))

    def delete(self, to: int) -> None:
        """Remove the groups up to number ``to``, which are sent."""
        with self._written(durably=False) as db:
            db.execute("DELETE FROM groups WHERE number <= ?", (to,))

    def set_aside(self, group: KeptGroup, added_ms: int) -> None:
        """Put a damaged group out of the way of the others."""
        with self._written(durably=True) as db:
            _insert_refused(db, group.data, _DAMAGED, added_ms)
            db.execute("DELETE FROM groups WHERE number = ?", (group.number,))

    def insert_refused(self, record: LogRecord, reason: str, added_ms: int) -> None:
        """Keep a record that will never be sent."""
        with self._written(durably=True) as db:
            _insert_refused(db, packed([record]).data, reason, added_ms)

    def refused(self) -> list[tuple[str, bytes]]:
        """Give reason and bytes of what will never be sent."""
        if not self.is_there:
            return []
        return list(self._db.execute("SELECT reason, data FROM refused ORDER BY number"))

    def everything(self) -> Iterator[list[LogRecord] | None]:
        """Give the records of each group, waiting or refused; ``None`` for a damaged one."""
        if not self.is_there:
            return
        with closing(self._db.execute("SELECT data, crc FROM groups")) as rows:
            yield from (unpacked(data, crc) for data, crc in rows)
        for reason, data in self.refused():
            yield None if reason == _DAMAGED else unpacked(data)

    def erase(self, is_meant: Callable[[LogRecord], bool]) -> int:
        """Remove the records that are meant, waiting or refused, for good; gives how many.

        Groups whose bytes are damaged stay as they are.
        """
        num_erased = 0
        if not self.is_there:
            return num_erased
        with self._written(durably=True) as db:
            for table in ("groups", "refused"):
                for number, data in db.execute(f"SELECT number, data FROM {table}").fetchall():
                    records = unpacked(data) or []
                    kept = [record for record in records if not is_meant(record)]
                    num_erased += len(records) - len(kept)
                    if records and not kept:
                        db.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
                    elif len(kept) < len(records):
                        _replace(db, table, number, packed(kept))
        if num_erased:  # their bytes too
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return num_erased

    def begin_anew(self, error: sqlite3.DatabaseError) -> None:
        """Put a file that is damaged, as opposed to locked or without room, out of the way."""
        if isinstance(error, sqlite3.OperationalError):
            raise error
        self._let_go()
        name = f"{self.path.name}.damaged-{uuid.uuid4().hex[:8]}"
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                self._beside(suffix).rename(self.path.with_name(name + suffix))
        sync_directory(self.path.parent)
        logger.error(
            "%s cannot be read (%s) and was moved to %s; `sqlite3 %s .recover` saves what can be",
            self.path, error, name, name,
        )  # fmt: skip
        self._opened = _connected(self.path)

    def remove_if_empty(self) -> None:
        """Close the file and remove it when it holds nothing; it is made again when needed."""
        if self._opened is None:
            return
        held = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM groups) OR EXISTS (SELECT 1 FROM refused)"
        )
        if not held.fetchone()[0]:
            self._let_go()
            for suffix in ("-wal", "-shm", ""):  # a journal without its file is nobody's
                self._beside(suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file for good."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            with suppress(sqlite3.Error):
                opened.close()

    @property
    def _db(self) -> sqlite3.Connection:
        self.open()
        assert self._opened is not None, "open has opened it"
        return self._opened

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    @contextmanager
    def _written(self, *, durably: bool) -> Iterator[sqlite3.Connection]:
        """One transaction; ``durably``: on the disk at its end, with all before it."""
        db = self._db
        db.execute(f"PRAGMA synchronous = {'FULL' if durably else 'NORMAL'}")
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # some failures have rolled back already
                db.execute("ROLLBACK")
            raise


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.0)
    try:
        # Alone on the file: no shared memory beside it, and a second process is refused.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA journal_size_limit = {_MAX_JOURNAL_BYTES}")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _FORMAT):
            raise sqlite3.OperationalError(f"a spool of format {found}, wanted {_FORMAT}")
        db.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            db.execute(table)
        db.execute(f"PRAGMA user_version = {_FORMAT}")
        db.execute("COMMIT")
        db.execute("SELECT count(*) FROM groups").fetchone()
        sync_directory(path.parent)
    except BaseException:
        db.close()
        raise
    return db


def _insert_refused(db: sqlite3.Connection, data: bytes, reason: str, added_ms: int) -> None:
    db.execute(
        "INSERT INTO refused (data, reason, added_ms) VALUES (?, ?, ?)", (data, reason, added_ms)
    )


def _replace(db: sqlite3.Connection, table: str, number: int, group: PackedGroup) -> None:
    if table == "refused":
        db.execute("UPDATE refused SET data = ? WHERE number = ?", (group.data, number))
        return
    db.execute(
        "UPDATE groups SET crc = ?, num_records = ?, num_bytes = ?, data = ? WHERE number = ?",
        (*group, number),
    )
