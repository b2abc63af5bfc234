"""What the event log holds, from its commits alone: no data file is opened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recsys.events.log_files import Committed, commits


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One partition of a topic, or one date of it."""

    topic: str
    partition: int
    first_date: str
    """Of the event times, UTC; ``""`` when no row is left."""
    last_date: str
    first: int
    """First offset of the commits that have rows here."""
    last: int
    num_rows: int
    num_files: int
    num_bytes: int


def catalogue(log_dir: Path, topic: str, *, by_date: bool = False) -> list[Entry]:
    """Give what lies in a topic, sorted by partition (and date)."""
    groups: dict[tuple[int, str], list[Committed]] = {}
    for one in commits(log_dir, topic):
        dates = {part.date for part in one.commit.parts} if by_date else {""}
        for date in dates:
            groups.setdefault((one.range.partition, date), []).append(one)
    return [
        _entry(topic, partition, group, date) for (partition, date), group in sorted(groups.items())
    ]


def _entry(topic: str, partition: int, group: Iterable[Committed], date: str) -> Entry:
    ranges = [one.range for one in group]
    parts = [part for one in group for part in one.commit.parts if date in ("", part.date)]
    return Entry(
        topic=topic,
        partition=partition,
        first_date=min((part.date for part in parts), default=""),
        last_date=max((part.date for part in parts), default=""),
        first=min(offsets.first for offsets in ranges),
        last=max(offsets.last for offsets in ranges),
        num_rows=sum(part.rows for part in parts),
        num_files=len(parts),
        num_bytes=sum(part.size for part in parts),
    )
