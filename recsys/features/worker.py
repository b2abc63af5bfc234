"""One run of the stream worker: log → features and event log, from where the last run got.

Order of deeds for a batch: dead letters made safe, features and positions written to the online
store under the lease, the event log's buffer filled, positions committed for monitoring. Whatever
is killed in between is done again by the next run, and nothing counts twice: entities carry the
positions they were told (``positions.py``), the sink knows its own, a dead letter is sent again.

Positions here are ours: a broker that keeps its log in memory and was restarted begins at offset 0
again, and then the numbers go on from where they were (``base``).

Item events come first: at the start all that are there, later those of each round, so that an
interaction finds the category of its item.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from recsys.clock import Clock
from recsys.errors import ConfigurationError, EventError, ServerError
from recsys.events.codec import decode
from recsys.events.dead_letters import send_dead_letter
from recsys.events.log import EventReader, EventWriter, Record, TopicPartition
from recsys.events.schema import Event
from recsys.events.topics import Topics
from recsys.features.duplicates import HORIZON
from recsys.features.hashes import HashReader, HashWriter
from recsys.features.progress import StoredProgress
from recsys.features.stream import FeatureStream
from recsys.telemetry import FRESHNESS_SECONDS, STREAM_DUPLICATES, STREAM_EVENTS, STREAM_LAG

logger = logging.getLogger(__name__)

_Decoded = list[tuple[Record, Event | None]]


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How the worker paces itself."""

    poll_timeout_ms: int = 100
    """Longest wait for behaviour before looking for item events: bounds how stale those are."""
    max_records: int = 20_000
    """Records of one batch, reached only when far behind: a larger one shares more writes between
    events (20,000 take about half a second), a smaller one is servable sooner."""
    commit_every_s: float = 1.0
    """Committed positions are for monitoring; the store has its own."""
    lag_every_s: float = 5.0
    """How often the lag is asked for and logged."""
    disk_retry_s: float = 1.0
    """Pause before the event log is tried again on a full disk."""


class Sink(Protocol):
    """What of ``events.sink.EventSink`` the worker uses."""

    def positions(self) -> dict[TopicPartition, int]:
        """Give the next offset to read of every partition ever written to."""

    def write(self, records: Iterable[tuple[Record, Event | None]]) -> None:
        """Take records in the order of their offsets; ``None`` for one that is no event."""

    def flush_if_due(self) -> None:
        """Write the buffers that are full or old."""

    def flush(self) -> None:
        """Write everything that is buffered."""

    def begin_anew(self, at: TopicPartition) -> None:
        """Take the log's offset 0 for the next record."""


class Lease(HashWriter, Protocol):
    """A writer that may lose its right to write while nothing is written."""

    def check(self) -> None:
        """Raise LeaseLostError when the lease is gone."""


class WorkerRun:
    """One run under one lease. Ends by ``stop``, or with the error that broke it."""

    def __init__(
        self,
        *,
        stream: FeatureStream,
        store: HashReader,
        lease: Lease,
        items: EventReader,
        behaviour: EventReader,
        bounds: Mapping[TopicPartition, tuple[int, int]],
        dead_letters: EventWriter,
        sink: Sink,
        topics: Topics,
        clock: Clock,
        stop: Callable[[], bool] = lambda: False,
        config: WorkerConfig = WorkerConfig(),
    ) -> None:
        """Find where to go on.

        ``bounds``: first offset the log has of each partition, and its end. ``stop``: asked while
        waiting for the disk.

        Raises:
            ConfigurationError: when records were deleted from the log before they were applied,
                or the store holds features of other declarations or half a backfill.
        """
        self._stream = stream
        self._lease = lease
        self._readers = (items, behaviour)
        self._dead_letters = dead_letters
        self._sink = sink
        self._topics = topics
        self._clock = clock
        self._stop = stop
        self._config = config
        self._progress = StoredProgress(store, topics.namespace)
        self._progress.check(stream.layout)
        self._base: dict[TopicPartition, int] = {}
        self._applied: dict[TopicPartition, int] = {}
        self._earliest = {at: first for at, (first, _) in bounds.items()}
        for at, (first, end) in bounds.items():
            self._find(at, first, end)
        self._committed_s = self._lag_s = time.monotonic()

    def _find(self, at: TopicPartition, first: int, end: int) -> None:
        """Find the first record of a partition that is not in the store yet."""
        position, base = self._progress.of(at)
        if position is None:
            position = first
            if first > 0 and at in self._sink.positions():
                raise ConfigurationError(
                    f"{at.topic}[{at.partition}]: wanted features up to record {first}, where the "
                    "log begins, found an empty online store; run `recsys backfill`, which makes "
                    "them from the event log"
                )
        elif position - base > end:
            logger.warning(
                "the broker forgot its log and begins anew",
                extra={"topic": at.topic, "partition": at.partition, "position": position},
            )
            base = position
            self._sink.begin_anew(at)
        elif position - base < first:
            raise ConfigurationError(
                f"{at.topic}[{at.partition}]: wanted to apply records from {position - base} on, "
                f"found that the log begins at {first}; run `recsys backfill`, which applies the "
                "event log and continues from there"
            )
        self._applied[at], self._base[at] = position, base

    def start(self) -> None:
        """Go to where this run begins: note recent event ids, then apply all item events."""
        sunk = self._sink.positions()
        for reader in self._readers:
            begin = {}
            for at in reader.assignment():
                horizon = HORIZON if at.topic == self._topics.behaviour else 0
                wanted = min(self._applied[at] - self._base[at] - horizon, sunk.get(at, 0))
                begin[at] = max(wanted, self._earliest[at])
            reader.seek(begin)
        items = self._readers[0]
        ends = {at: items.positions()[at] + lag for at, lag in items.lag().items()}
        while any(position < ends[at] for at, position in items.positions().items()):
            self._handle(items.poll(timeout_ms=500, max_records=self._config.max_records))

    def step(self) -> int:
        """Apply what is there, waiting a moment when nothing is; gives the number of records."""
        items, behaviour = self._readers
        records = items.poll(timeout_ms=0, max_records=self._config.max_records)
        wait_ms = 0 if records else self._config.poll_timeout_ms
        records += behaviour.poll(timeout_ms=wait_ms, max_records=self._config.max_records)
        if records:
            self._handle(records)
        else:
            self._with_disk(self._sink.flush_if_due)
        self._keep()
        return len(records)

    def lag(self) -> int:
        """Give how many records wait to be applied."""
        lags = {at: lag for reader in self._readers for at, lag in reader.lag().items()}
        for at, lag in lags.items():
            STREAM_LAG.labels(topic=at.topic, partition=at.partition).set(lag)
        return sum(lags.values())

    def store(self) -> None:
        """Store where we got: the event log's buffer and the committed positions.

        On a full disk the buffer stays; its records are safe in the log and are read again.
        """
        try:
            self._sink.flush()
        except ConfigurationError as error:
            logger.error("event log cannot be written", extra={"reason": str(error)})
        self._commit()

    def _handle(self, records: Sequence[Record]) -> None:
        decoded = self._decode(records)
        fresh: list[tuple[Record, Event]] = []
        moved: dict[TopicPartition, int] = {}
        for record, event in decoded:
            at = TopicPartition(record.topic, record.partition)
            ours = record.offset + self._base[at]
            if ours >= self._applied[at]:
                moved[at] = ours + 1
            if event is None:
                continue
            numbered = record._replace(offset=ours) if self._base[at] else record
            if ours < self._applied[at]:
                self._stream.note(numbered, event)  # read again for its event id or for the sink
            else:
                fresh.append((numbered, event))
        if moved:
            writes, num_duplicates = self._stream.apply(fresh)
            # The last write: whoever reads these positions finds all before them applied.
            told = self._progress.fields(moved, self._base, self._stream.layout)
            if refused := self._lease.write([*writes, told]):
                raise ServerError(
                    f"wanted to be the only writer, found {len(refused)} hashes written by another"
                )
            self._applied |= moved
            self._count(fresh, num_duplicates)
        self._with_disk(lambda: self._sink.write(decoded))

    def _decode(self, records: Sequence[Record]) -> _Decoded:
        decoded: _Decoded = []
        num_refused = 0
        for record in records:
            try:
                decoded.append((record, decode(record.value)))
            except EventError as error:
                decoded.append((record, None))
                at = TopicPartition(record.topic, record.partition)
                if record.offset + self._base[at] >= self._applied[at]:
                    send_dead_letter(self._dead_letters, self._topics.dead_letters, record, error)
                    num_refused += 1
        if num_refused:
            self._dead_letters.flush()
        return decoded

    def _count(self, fresh: Sequence[tuple[Record, Event]], num_duplicates: int) -> None:
        if not fresh:
            return
        STREAM_DUPLICATES.inc(num_duplicates)
        for kind, count in Counter(type(event) for _, event in fresh).items():
            STREAM_EVENTS.labels(kind=str(kind.__struct_config__.tag)).inc(count)
        oldest_ms = min(record.timestamp_ms for record, _ in fresh)
        FRESHNESS_SECONDS.observe(max(0.0, (self._clock() - oldest_ms) / 1000))

    def _with_disk(self, deed: Callable[[], None]) -> None:
        """Do something to the event log; on a full disk wait, since nothing may be left out."""
        try:
            deed()
            return
        except ConfigurationError as error:
            logger.error("event log cannot be written", extra={"reason": str(error)})
        while not self._stop():
            time.sleep(self._config.disk_retry_s)
            self._lease.check()
            try:
                self._sink.flush()
            except ConfigurationError:
                continue
            logger.warning("event log can be written again")
            return

    def _keep(self) -> None:
        self._lease.check()
        now_s = time.monotonic()
        if now_s - self._committed_s >= self._config.commit_every_s:
            self._commit()
            self._committed_s = now_s
        if now_s - self._lag_s >= self._config.lag_every_s:
            self._lag_s = now_s
            if lag := self.lag():
                logger.info("behind the log", extra={"num_records": lag})

    def _commit(self) -> None:
        for reader in self._readers:
            moved = {
                at: self._applied[at] - self._base[at]
                for at in reader.assignment()
                if self._applied[at] - self._base[at] > self._earliest[at]
            }
            if moved:
                reader.commit(moved)
