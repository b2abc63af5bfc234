"""Names in the event log's folder, and which files count.

::

    <event_log_dir>/<topic>/date=2011-11-09/<topic>-<partition>-<first>-<last>.parquet
    <event_log_dir>/<topic>/_commits/<partition>-<first>-<last>.json

One flush takes one range of offsets of one partition and may touch several dates, so it may write
several files. They count from the moment the flush's commit file appears, all at once; files
without their commit are leftovers of a killed flush. Ranges of a partition follow on each other:
each begins one after the last of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from recsys.clock import DAY_MS

COMMITS = "_commits"
_COMMIT = re.compile(r"(\d+)-(\d+)-(\d+)\.json")
_DATA = re.compile(r"(.+)-(\d+)-(\d+)-(\d+)\.parquet")


class Range(NamedTuple):
    """Offsets ``first`` to ``last``, both included, of one partition."""

    partition: int
    first: int
    last: int


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """What a flush put where; the content of a commit file."""

    rows: dict[str, int]
    """Rows in the file of each date (``2011-11-09``)."""
    num_refused: int = 0
    """Records that are no events: they went to the dead letters."""
    absent: list[tuple[int, int]] = []
    """Ranges of offsets the log did not give (both ends included): deleted by retention before
    they were read, or marks of a transaction."""
    base: int = 0
    """Our number for the log's offset 0. It grows when a broker forgot everything and its log
    begins anew: numbers here go on counting up for ever."""


class DataFile(NamedTuple):
    """A Parquet file of one flush and one date."""

    path: Path
    date: str
    range: Range


def date_of(event_time_ms: int) -> str:
    """Give the UTC date, as in folder names.

    >>> date_of(1_320_796_800_000)
    '2011-11-09'
    """
    return datetime.fromtimestamp(event_time_ms // DAY_MS * 86_400, tz=UTC).date().isoformat()


def commit_path(log_dir: Path, topic: str, offsets: Range) -> Path:
    """Give the commit file of a flush."""
    name = f"{offsets.partition}-{offsets.first}-{offsets.last}.json"
    return log_dir / topic / COMMITS / name


def data_path(log_dir: Path, topic: str, date: str, offsets: Range) -> Path:
    """Give the Parquet file of a flush and a date."""
    name = f"{topic}-{offsets.partition}-{offsets.first}-{offsets.last}.parquet"
    return log_dir / topic / f"date={date}" / name


def committed_ranges(log_dir: Path, topic: str) -> list[Range]:
    """Give the ranges of all finished flushes, sorted."""
    folder = log_dir / topic / COMMITS
    if not folder.is_dir():
        return []
    found = (_COMMIT.fullmatch(path.name) for path in folder.iterdir())
    return sorted(Range(int(m[1]), int(m[2]), int(m[3])) for m in found if m)


def read_commit(log_dir: Path, topic: str, offsets: Range) -> Commit:
    """Read a commit file."""
    return msgspec.json.decode(commit_path(log_dir, topic, offsets).read_bytes(), type=Commit)


def data_files(log_dir: Path, topic: str) -> Iterator[DataFile]:
    """Give every Parquet file of a topic, leftovers included, by date."""
    folder = log_dir / topic
    if not folder.is_dir():
        return
    for date_dir in sorted(folder.glob("date=*")):
        date = date_dir.name.removeprefix("date=")
        for path in sorted(date_dir.iterdir()):
            if match := _DATA.fullmatch(path.name):
                yield DataFile(path, date, Range(int(match[2]), int(match[3]), int(match[4])))
