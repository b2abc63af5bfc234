"""Names in the event log's folder, and which files count.

::

    <event_log_dir>/<topic>/date=2011-11-09/<topic>-<partition>-<first>-<token>.parquet
    <event_log_dir>/<topic>/_commits/<partition>-<first>.json

One flush takes one range of offsets of one partition and may touch several dates, so it may write
several files. They count from the moment the flush's commit appears, all at once; a file that no
commit names is a leftover. Ranges of a partition follow on each other: each begins one after the
last of the one before.

A commit is made only where there is none of its name, and the next range always begins where the
last one ended. So of two processes that write the same partition (one of them slept, or lost its
partitions while it wrote) only one can commit, on any file system that several machines share; the
token keeps their files apart meanwhile.

Compaction, expiry and erasure replace a commit in one rename. A compacted commit covers the ranges
of those after it, which from then on do not count (``superseded``).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from recsys.clock import DAY_MS
from recsys.errors import ConfigurationError

COMMITS = "_commits"
_COMMIT = re.compile(r"(\d+)-(\d+)\.json")
_DATA = re.compile(r"(.+)-(\d+)-(\d+)-([0-9a-f]+)\.parquet")


class Range(NamedTuple):
    """Offsets ``first`` to ``last``, both included, of one partition."""

    partition: int
    first: int
    last: int


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file of a commit."""

    date: str
    """UTC date of its events: ``2011-11-09``."""
    name: str
    rows: int
    size: int
    """Bytes."""
    crc32: int

    @property
    def place(self) -> tuple[str, str]:
        """Folder and name; the files of one flush have one name in several folders."""
        return f"date={self.date}", self.name

    @classmethod
    def of(cls, data: bytes, *, date: str, name: str, rows: int) -> Part:
        """Describe a file of ``data``."""
        return cls(date=date, name=name, rows=rows, size=len(data), crc32=zlib.crc32(data))


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """What lies where of a range of offsets; the content of a commit file."""

    last: int
    """Its last offset; the first is in its name."""
    parts: list[Part]
    follows: int | None = None
    """Last offset of the commit before it; ``None`` for the first a partition ever had."""
    num_refused: int = 0
    """Records that are no events: they went to the dead letters."""
    num_expired: int = 0
    """Rows removed because their dates were expired."""
    num_erased: int = 0
    """Rows removed because their user was forgotten."""
    absent: list[tuple[int, int]] = []
    """Ranges of offsets the log did not give (both ends included): deleted by retention before
    they were read, or marks of a transaction."""
    base: int = 0
    """Our number for the log's offset 0. It grows when a broker forgot everything and its log
    begins anew: numbers here go on counting up for ever."""


class Committed(NamedTuple):
    """A commit and where it stands."""

    range: Range
    commit: Commit


class DataFile(NamedTuple):
    """A Parquet file in the folder of a date, whether it counts or not."""

    path: Path
    date: str
    partition: int
    first: int

    @property
    def place(self) -> tuple[str, str]:
        """Folder and name, as of a ``Part``."""
        return f"date={self.date}", self.path.name


def date_of(event_time_ms: int) -> str:
    """Give the UTC date, as in folder names.

    >>> date_of(1_320_796_800_000)
    '2011-11-09'
    """
    return datetime.fromtimestamp(event_time_ms // DAY_MS * 86_400, tz=UTC).date().isoformat()


def commit_path(log_dir: Path, topic: str, partition: int, first: int) -> Path:
    """Give the commit file of the range that begins at ``first``."""
    return log_dir / topic / COMMITS / f"{partition}-{first}.json"


def part_name(topic: str, partition: int, first: int, token: str) -> str:
    """Give the name of a Parquet file; ``token`` (hex) tells two writers of a range apart."""
    return f"{topic}-{partition}-{first}-{token}.parquet"


def part_path(log_dir: Path, topic: str, part: Part) -> Path:
    """Give where a part lies."""
    return (log_dir / topic).joinpath(*part.place)


def topics_of(log_dir: Path) -> list[str]:
    """Give the topics that were ever written."""
    return sorted(path.parent.name for path in log_dir.glob(f"*/{COMMITS}"))


def all_commits(log_dir: Path, topic: str) -> list[Committed]:
    """Give every commit there is, superseded ones too, sorted by partition and first offset.

    Raises:
        ConfigurationError: when one cannot be read.
    """
    folder = log_dir / topic / COMMITS
    while folder.is_dir():
        try:
            found = [_read(path) for path in folder.iterdir() if _is_commit(path)]
        except FileNotFoundError:
            continue  # superseded and swept since the folder was listed: what covers it is new
        return sorted(found, key=lambda one: one.range)
    return []


def _is_commit(path: Path) -> bool:
    if path.suffix != ".json" or path.name.startswith("."):
        return False
    if _COMMIT.fullmatch(path.name) is None:
        raise _unreadable(path, "a name of another form")
    return True


def _read(path: Path) -> Committed:
    partition, first = map(int, path.stem.split("-"))
    try:
        commit = msgspec.json.decode(path.read_bytes(), type=Commit)
    except msgspec.MsgspecError as error:
        raise _unreadable(path, str(error)) from error
    return Committed(Range(partition, first, commit.last), commit)


def covers(log_dir: Path, topic: str, partition: int, offset: int, *, since_s: float) -> bool:
    """Say whether a commit written at ``since_s`` or later that begins before ``offset`` has it."""
    for path in (log_dir / topic / COMMITS).glob(f"{partition}-*.json"):
        match = _COMMIT.fullmatch(path.name)
        if match is None or int(match[2]) >= offset:
            continue
        try:
            if path.stat().st_mtime >= since_s and _read(path).range.last >= offset:
                return True
        except FileNotFoundError:
            continue  # swept: what covers it is there
    return False


def _unreadable(path: Path, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: wanted a commit of the event log, found {found}; it is damaged or of another "
        "version: restore it, or move the topic's folder away and run the worker on Kafka's log"
    )


def commits(log_dir: Path, topic: str) -> list[Committed]:
    """Give the commits that count, sorted by partition and first offset."""
    live: list[Committed] = []
    for one in all_commits(log_dir, topic):
        before = live[-1].range if live else None
        if before and before.partition == one.range.partition and one.range.first <= before.last:
            continue  # superseded
        live.append(one)
    return live


def committed_ranges(log_dir: Path, topic: str) -> list[Range]:
    """Give the ranges of the commits that count, sorted."""
    return [one.range for one in commits(log_dir, topic)]


def ends(log_dir: Path, topic: str) -> dict[int, Committed]:
    """Give the last commit of each partition: the log goes on after it."""
    return {one.range.partition: one for one in commits(log_dir, topic)}


def data_files(log_dir: Path, topic: str) -> Iterator[DataFile]:
    """Give every Parquet file of a topic, leftovers included, by date."""
    folder = log_dir / topic
    if not folder.is_dir():
        return
    for date_dir in sorted(folder.glob("date=*")):
        date = date_dir.name.removeprefix("date=")
        for path in sorted(date_dir.iterdir()):
            if match := _DATA.fullmatch(path.name):
                yield DataFile(path, date, int(match[2]), int(match[3]))
