"""One run of the stream worker: log → features and event log, from where the last one got.

Several workers share the behaviour partitions (``SharedReader``); each reads all item partitions,
whose writes are the same whoever makes them. Order of deeds for a batch: dead letters made safe,
features written, then the progress raised, the event log's buffer filled, positions committed for
monitoring; while Redis writes one batch the next is read and computed (``batch_writes.py``).
Whatever is killed in between is done again by whoever has the partition next, and nothing counts
twice: entities carry the positions they were told (``positions.py``), the sink knows its own, a
dead letter is sent again. A hash another worker wrote in the meantime is refused, read again, and
told only what it lacks.

A worker that slept while others took over does no harm: whoever gets a partition takes it in the
store, too (``GuardedWriter.take``), before it reads its position, and what the sleeper still writes
is refused. It forgets all it knew, hears what it lost, and goes on from the progress.

Item events come first: before behaviour is applied, all item events are that were in the log when
it was read, so that an interaction finds the category of its item.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from recsys.clock import Clock
from recsys.errors import EventError, ServerError
from recsys.events.codec import decode_all_logged, decode_logged
from recsys.events.dead_letters import send_dead_letter
from recsys.events.log import EventReader, EventWriter, Record, SharedReader, TopicPartition
from recsys.events.schema import LoggedEvent
from recsys.events.topics import Topics
from recsys.features.batch_writes import BatchWrites
from recsys.features.duplicates import HORIZON
from recsys.features.freshness import Freshness
from recsys.features.guarded_writer import StoreChangedError
from recsys.features.hashes import FeatureWriter, HashReader, KeyFinder
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.run_positions import RunPositions
from recsys.features.runs import Run, by_partition, known
from recsys.features.stream import FeatureStream
from recsys.telemetry import (
    STREAM_LAG,
    STREAM_REBALANCES,
    STREAM_RESTARTS,
)

logger = logging.getLogger(__name__)


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


class WorkerRun:
    """One run over one store. Ends by ``close``, or with the error that broke it."""

    def __init__(
        self,
        *,
        stream: FeatureStream,
        store: HashReader,
        writer: FeatureWriter,
        keys: KeyFinder,
        items: EventReader,
        behaviour: SharedReader,
        dead_letters: EventWriter,
        sinks: PartitionSinks[LoggedEvent],
        topics: Topics,
        clock: Clock,
        freshness: Freshness | None = None,
        config: WorkerConfig = WorkerConfig(),
    ) -> None:
        """Take the parts; ``start`` begins.

        ``items`` reads all item partitions. ``sinks`` owns nothing yet.
        """
        self._stream = stream
        self._writer = writer
        self._batches = BatchWrites(stream, writer, keys)
        self._items = items
        self._behaviour = behaviour
        self._dead_letters = dead_letters
        self._sinks = sinks
        self._topics = topics
        self._clock = clock
        self._freshness = freshness or Freshness({})
        self._config = config
        self._positions = RunPositions(store, topics.namespace)
        self._states: frozenset[str] = frozenset()
        self._shown: set[TopicPartition] = set()
        self._joined = False
        self._committed_s = self._lag_s = time.monotonic()

    def start(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Apply all item events, then join the others; returns with a share, be it empty.

        Raises:
            StoreChangedError: when the store is empty; begin it first (``FeatureWriter.found``).
            ConfigurationError: when records were deleted from the log before they were applied,
                or the store holds features of other declarations or half a backfill.
        """
        self._begin_store()
        self._go_on(self._items.assignment())
        self._handle(self._items_until_now())
        self._batches.finish()
        while not self._joined and not stop():
            self._behaviour.poll(timeout_ms=100, max_records=1)  # nothing comes before a seek
            self._follow_share()

    def step(self) -> int:
        """Apply what is there, waiting a moment when nothing is; gives the number of records.

        Raises:
            StoreChangedError: when the store was emptied.
            ConfigurationError: as ``start``.
        """
        try:
            return self._step()
        except StoreChangedError as error:
            logger.warning("state forgotten", extra={"reason": str(error)})
            STREAM_RESTARTS.inc()
            self._batches.drop()
            self._begin_store()
            # Whose the partitions are now; what else it gives is read again.
            self._behaviour.poll(timeout_ms=0, max_records=1)
            self._follow_share()
            self._go_on([*self._items.assignment(), *self._behaviour.assignment()])
            return 0

    def _step(self) -> int:
        if self._sinks.is_retry_due():
            # First what is under way is written: a sink that goes on wants what it missed first.
            self._batches.finish()
            self._go_on(self._sinks.retry())
        records = self._behaviour.poll(
            # Who has something to wait for does that instead.
            timeout_ms=0 if self._batches.is_under_way else self._config.poll_timeout_ms,
            max_records=self._config.max_records,
        )
        self._follow_share()
        if records:
            items = self._items_until_now()
        else:
            items = self._items.poll(timeout_ms=0, max_records=self._config.max_records)
        self._handle(items + records)
        if not records:
            self._batches.finish()
            self._sinks.flush_if_due()
        self._keep()
        return len(items) + len(records)

    def lag(self) -> int:
        """Give how many records wait to be applied."""
        lags = self._items.lag() | self._behaviour.lag()
        for at, lag in lags.items():
            STREAM_LAG.labels(topic=at.topic, partition=at.partition).set(lag)
        self._shown |= set(lags)
        return sum(lags.values())

    def store(self) -> None:
        """Store where we got: the event log's buffer and the committed positions.

        On a full disk the buffer stays; its records are safe in the log and are read again.
        """
        self._batches.finish()
        self._sinks.flush()
        self._commit()

    def close(self) -> None:
        """Store where we got, and let others have the partitions."""
        self.store()
        self._sinks.close()

    def _begin_store(self) -> None:
        self._stream.forget()
        if not self._writer.begin():
            raise StoreChangedError("wanted features to go on from, found an empty online store")
        self._states = self._positions.kept(self._stream.layout)
        self._stream.keep_only(self._states)
        waiting = self._stream.declared - self._states
        if waiting:
            logger.warning(
                "declared views are not computed; run `recsys backfill --views new`",
                extra={"states": sorted(waiting)},
            )

    def _follow_share(self) -> None:
        """Let go of partitions others have now, and begin with those that came."""
        lost, gained, num = self._behaviour.changes()
        if lost or gained:
            self._batches.finish()
        if num or gained:
            self._joined = True
        if num:
            STREAM_REBALANCES.inc(num)
        if lost:
            self._drop(lost)
            if _has_first(lost):
                self._sinks.give_up(self._items.assignment())
        if gained:
            self._sinks.take(gained)
            if _has_first(gained):
                self._sinks.take(self._items.assignment())
                self._go_on(self._items.assignment())
            self._go_on(gained)
        if lost or gained:
            share = [at.partition for at in self._behaviour.assignment()]
            logger.info("share of the partitions", extra={"partitions": share})

    def _drop(self, lost: Sequence[TopicPartition]) -> None:
        self._sinks.give_up(lost)
        self._writer.let_go(lost)
        # Their users may come back to us forgotten and begun anew, as often written as before.
        self._stream.forget()
        self._stream.forget_duplicates(lost)
        self._positions.forget(lost)
        for at in lost:
            self._freshness.forget(at)
            if at in self._shown:
                STREAM_LAG.remove(at.topic, str(at.partition))
                self._shown.discard(at)

    def _go_on(self, partitions: Sequence[TopicPartition]) -> None:
        """Go to where the store and the event log have got in these partitions."""
        if not partitions:
            return
        self._stream.forget_duplicates(partitions)
        for reader in (self._items, self._behaviour):
            mine = sorted(set(reader.assignment()) & set(partitions))
            if not mine:
                continue
            if reader is self._behaviour:
                self._writer.take(mine)
            begin = {}
            for at, (first, end) in reader.bounds(mine).items():
                begin[at] = self._begin_of(at, first, self._find(at, first, end))
            reader.seek(begin)

    def _find(self, at: TopicPartition, first: int, end: int) -> int:
        """Give the offset of the first record of a partition that is not in the store yet."""
        in_event_log = self._sinks.position(at) is not None
        found = self._positions.find(at, first, end, self._states, is_in_event_log=in_event_log)
        if found.log_is_new:
            self._sinks.begin_anew(at)
        if found.others_applied:
            # Others told items what we will skip: what we remember of them lacks it, and no
            # version shows that where a category is only looked up.
            self._stream.forget()
        return found.offset

    def _begin_of(self, at: TopicPartition, first: int, to_apply: int) -> int:
        """Give from where to read: what may be a duplicate's first half, what the sink lacks."""
        wanted = to_apply - (HORIZON if at.topic == self._topics.behaviour else 0)
        if self._sinks.needs(at):
            wanted = min(wanted, self._sinks.position(at) or 0)
        return max(wanted, first)

    def _items_until_now(self) -> list[Record]:
        """Apply the item events that are in the log now, but give the last of them."""
        position = self._items.positions()
        ends = {at: position[at] + lag for at, lag in self._items.lag().items()}
        taken: list[Record] = []
        while any(at_ < ends[at] for at, at_ in self._items.positions().items()):
            if len(taken) >= self._config.max_records:
                self._handle(taken)
                taken = []
            taken += self._items.poll(timeout_ms=500, max_records=self._config.max_records)
        return taken

    def _handle(self, records: Sequence[Record]) -> None:
        if not records:
            return
        runs = [Run(at, some, self._decode(some)) for at, some in by_partition(records)]
        fresh: list[Run[LoggedEvent]] = []
        moved: dict[TopicPartition, int] = {}
        for run in runs:
            ours = self._positions.numbered(known(run))
            first_fresh = self._positions.first_fresh(ours)
            for record, event in ours.part(0, first_fresh).pairs():
                self._stream.note(record, event)  # read again for its event id or for the sink
            fresh.append(ours.part(first_fresh))
            if end := self._positions.end_of(run):
                moved[run.at] = end
        if moved:
            self._batches.apply(fresh, partial(self._applied, runs, fresh, moved))
            self._positions.advance(moved)
        else:
            self._batches.finish()
            self._sinks.write(runs)

    def _applied(
        self,
        runs: Sequence[Run[LoggedEvent | None]],
        fresh: Sequence[Run[LoggedEvent]],
        moved: Mapping[TopicPartition, int],
    ) -> None:
        # The last write: whoever reads these positions finds all before them applied.
        self._writer.advance(self._positions.numbers(moved))
        self._freshness.observe([self._positions.live_part(run) for run in fresh], self._clock())
        self._sinks.write(runs)

    def _decode(self, records: Sequence[Record]) -> Sequence[LoggedEvent | None]:
        try:
            return decode_all_logged([record.value for record in records])
        except EventError:
            return self._decode_each(records)

    def _decode_each(self, records: Sequence[Record]) -> Sequence[LoggedEvent | None]:
        events: list[LoggedEvent | None] = []
        num_refused = 0
        for record in records:
            try:
                events.append(decode_logged(record.value))
            except EventError as error:
                events.append(None)
                # Not again for a state that catches up.
                if self._positions.is_live(record):
                    send_dead_letter(self._dead_letters, self._topics.dead_letters, record, error)
                    num_refused += 1
        if num_refused:
            self._dead_letters.flush()
        return events

    def _keep(self) -> None:
        now_s = time.monotonic()
        if now_s - self._committed_s >= self._config.commit_every_s:
            self._batches.finish()
            self._writer.advance({})  # who has nothing to write must hear of a backfill, too
            self._commit()
            self._committed_s = now_s
        if now_s - self._lag_s >= self._config.lag_every_s:
            self._lag_s = now_s
            if lag := self.lag():
                logger.info("behind the log", extra={"num_records": lag})

    def _commit(self) -> None:
        moved = self._positions.offsets()
        if moved:
            try:
                self._behaviour.commit(moved)
            except ServerError as error:  # a rebalance, a broker away: it is for monitoring only
                logger.info("positions not committed", extra={"reason": str(error)})


def _has_first(partitions: Sequence[TopicPartition]) -> bool:
    """Say whether the partition is among these whose owner also logs the item events."""
    return any(at.partition == 0 for at in partitions)
