"""A batch of records as runs: consecutive records of one partition with what they hold.

A poll gives the records of a partition one after the other, so that what is the same for all of
them (the partition, how far it was applied) is looked up once a run instead of once a record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Generic, TypeVar

from recsys.events.log import Record, TopicPartition
from recsys.events.schema import LoggedEvent

_partition_of = itemgetter(0, 1)
_offset_of = attrgetter("offset")
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Run(Generic[E]):
    """Records of one partition in ascending order, and the event of each."""

    at: TopicPartition
    records: Sequence[Record]
    events: Sequence[E]

    def __len__(self) -> int:
        return len(self.records)

    def part(self, begin: int, end: int | None = None) -> Run[E]:
        """Give records ``begin … end - 1`` of it."""
        if not begin and (end is None or end >= len(self)):
            return self
        return Run(self.at, self.records[begin:end], self.events[begin:end])

    def without(self, places: Set[int]) -> Run[E]:
        """Leave out some."""
        if not places:
            return self
        kept = [n for n in range(len(self)) if n not in places]
        return Run(self.at, [self.records[n] for n in kept], [self.events[n] for n in kept])

    def place(self, offset: int) -> int:
        """Give how many of its records come before ``offset``."""
        if not self.records or self.records[0].offset >= offset:
            return 0
        return bisect_left(self.records, offset, key=_offset_of)

    def places_of(self, kind: type) -> list[int]:
        """Give the places of the events of a kind."""
        types = list(map(type, self.events))
        return [n for n, one in enumerate(types) if one is kind] if kind in types else []

    def shifted(self, by: int) -> Run[E]:
        """Number its records otherwise."""
        if not by:
            return self
        records = [record._replace(offset=record.offset + by) for record in self.records]
        return Run(self.at, records, self.events)

    def pairs(self) -> Iterator[tuple[Record, E]]:
        """Give each record with its event."""
        return zip(self.records, self.events, strict=True)


def by_partition(records: Iterable[Record]) -> Iterator[tuple[TopicPartition, list[Record]]]:
    """Cut records where their partition changes."""
    for at, some in groupby(records, key=_partition_of):
        yield TopicPartition(*at), list(some)


def runs_of(batch: Iterable[tuple[Record, LoggedEvent]]) -> list[Run[LoggedEvent]]:
    """Give the runs of records with their events."""
    pairs = list(batch)
    runs: list[Run[LoggedEvent]] = []
    begin = 0
    for at, records in by_partition(record for record, _ in pairs):
        events = [event for _, event in pairs[begin : begin + len(records)]]
        runs.append(Run(at, records, events))
        begin += len(records)
    return runs


def known(run: Run[LoggedEvent | None]) -> Run[LoggedEvent]:
    """Leave out the records that are no events."""
    if None not in run.events:
        return run  # type: ignore[return-value]
    pairs = [(record, event) for record, event in run.pairs() if event is not None]
    return Run(run.at, [record for record, _ in pairs], [event for _, event in pairs])
