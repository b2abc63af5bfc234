"""Where one run of the worker stands in each partition, in our numbers.

A partition's *position* is the number of the next record to apply. It is the log's offset plus
``base``, which is 0 until a broker forgets its log and begins at offset 0 again; then the numbers
go on from where they were.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeVar

from recsys.errors import ConfigurationError
from recsys.events.log import Record, TopicPartition
from recsys.features.hashes import HashReader
from recsys.features.progress import StoredProgress, numbers_of
from recsys.features.runs import Run

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Found(NamedTuple):
    """What was found of one partition."""

    offset: int
    """Of the first record to apply."""
    log_is_new: bool
    """Whether the broker forgot its log and began anew."""
    others_applied: bool
    """Whether others have applied records that this run had not."""


class RunPositions:
    """Positions of the partitions of one run."""

    def __init__(self, store: HashReader, namespace: str) -> None:
        self._progress = StoredProgress(store, namespace)
        self._base: dict[TopicPartition, int] = {}
        self._applied: dict[TopicPartition, int] = {}
        self._earliest: dict[TopicPartition, int] = {}
        self._live: dict[TopicPartition, int] = {}
        """What ``_applied`` is to all states but those that catch up."""
        self._behind: dict[TopicPartition, dict[bytes, int]] = {}

    def kept(self, layout: str) -> frozenset[str]:
        """Give the states to keep up to date. See ``StoredProgress.kept``."""
        return self._progress.kept(layout)

    def find(
        self,
        at: TopicPartition,
        first: int,
        end: int,
        states: Collection[str],
        *,
        is_in_event_log: bool,
    ) -> Found:
        """Find the first record of a partition that is not in the store yet.

        Args:
            at: The partition.
            first: Its earliest offset.
            end: The offset its next record will get.
            states: Those kept up to date.
            is_in_event_log: Whether the event log has records of it.

        Raises:
            ConfigurationError: when records were deleted before they were applied.
        """
        position, base = self._progress.of(at)
        live = position
        self._behind[at] = behind = self._progress.behind(at, states)
        if position is not None and behind:
            position = min(position, *behind.values())
        log_is_new = False
        if position is None:
            position = live = first
            if first > 0 and is_in_event_log:
                raise ConfigurationError(
                    f"{at.topic}[{at.partition}]: wanted features up to record {first}, where the "
                    "log begins, found an empty online store; run `recsys backfill`, which makes "
                    "them from the event log"
                )
        elif live is not None and live - base > end:
            if behind:
                raise ConfigurationError(
                    f"{at.topic}[{at.partition}]: wanted to apply records from {position} on to "
                    "new views, found that the broker forgot its log; run `recsys backfill`, which "
                    "computes all views anew"
                )
            logger.warning(
                "the broker forgot its log and begins anew",
                extra={"topic": at.topic, "partition": at.partition, "position": position},
            )
            base = position
            log_is_new = True
        elif position - base < first:
            raise ConfigurationError(
                f"{at.topic}[{at.partition}]: wanted to apply records from {position - base} on, "
                f"found that the log begins at {first}; run `recsys backfill`, which applies the "
                "event log and continues from there"
            )
        others_applied = position > self._applied.get(at, position)
        self._applied[at], self._base[at], self._earliest[at] = position, base, first
        self._live[at] = position if live is None else max(live, position)
        return Found(position - base, log_is_new, others_applied)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop partitions that others have now."""
        for at in partitions:
            self._applied.pop(at, None)
            self._behind.pop(at, None)

    def numbered(self, run: Run[T]) -> Run[T]:
        """Give records under our numbers."""
        return run.shifted(self._base[run.at])

    def first_fresh(self, run: Run[T]) -> int:
        """Give the place of the first record (under our numbers) that was not applied yet."""
        return run.place(self._applied[run.at])

    def end_of(self, run: Run[T]) -> int | None:
        """Give the position behind a run (under the log's numbers); ``None`` if we are there."""
        end = run.records[-1].offset + self._base[run.at] + 1
        return end if end > self._applied[run.at] else None

    def advance(self, moved: Mapping[TopicPartition, int]) -> None:
        """Take note that these positions are reached."""
        self._applied |= moved

    def numbers(self, moved: Mapping[TopicPartition, int]) -> dict[bytes, int]:
        """Give how these positions are stored."""
        numbers = numbers_of(moved, self._base)
        return numbers | {name: n for at, n in moved.items() for name in self._behind[at]}

    def live_part(self, run: Run[T]) -> Run[T]:
        """Give the records (under our numbers) that are new not only to states that catch up."""
        return run.part(run.place(self._live[run.at]))

    def is_live(self, record: Record) -> bool:
        """Say whether a record is new not only to states that catch up."""
        at = TopicPartition(record.topic, record.partition)
        return record.offset + self._base[at] >= self._live[at]

    def offsets(self) -> dict[TopicPartition, int]:
        """Give the offsets to commit: of partitions in which there is something before them."""
        return {
            at: position - self._base[at]
            for at, position in self._applied.items()
            if position - self._base[at] > self._earliest[at]
        }
