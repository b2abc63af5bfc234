"""One run of the stream worker: log → features and event log, from where the last one got.

Several workers share the behaviour partitions (``SharedReader``); each reads all item partitions,
whose writes are the same whoever makes them. Order of deeds for a batch: dead letters made safe,
features written, then the progress raised, the event log's buffer filled, positions committed for
monitoring; while Redis writes one batch the next is read and computed (``_send``). Whatever is
killed in between is done again by whoever has the partition next, and nothing counts twice:
entities carry the positions they were told (``positions.py``), the sink knows its own, a dead
letter is sent again. A hash another worker wrote in the meantime is refused, read again, and told
only what it lacks.

A worker that slept while others took over does no harm: whoever gets a partition takes it in the
store, too (``GuardedWriter.take``), before it reads its position, and what the sleeper still writes
is refused. It forgets all it knew, hears what it lost, and goes on from the progress.

Positions here are ours: a broker that keeps its log in memory and was restarted begins at offset 0
again, and then the numbers go on from where they were (``base``).

Item events come first: before behaviour is applied, all item events are that were in the log when
it was read, so that an interaction finds the category of its item.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from recsys.clock import Clock
from recsys.errors import ConfigurationError, EventError, ServerError
from recsys.events.codec import decode_logged
from recsys.events.dead_letters import send_dead_letter
from recsys.events.log import EventReader, EventWriter, Record, SharedReader, TopicPartition
from recsys.events.schema import ForgetEvent, LoggedEvent
from recsys.events.topics import Topics
from recsys.features.batch_columns import BatchColumns
from recsys.features.duplicates import HORIZON
from recsys.features.freshness import Freshness
from recsys.features.guarded_writer import StoreChangedError
from recsys.features.hashes import (
    ANY_VERSION,
    FeatureWriter,
    HashReader,
    KeyFinder,
    UnderWay,
    Write,
)
from recsys.features.layout import is_keyed_by_user
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.progress import StoredProgress, numbers_of
from recsys.features.runs import Run, by_partition, known
from recsys.features.stream import FeatureStream
from recsys.telemetry import (
    STREAM_DUPLICATES,
    STREAM_LAG,
    STREAM_REBALANCES,
    STREAM_RESTARTS,
)

logger = logging.getLogger(__name__)


class _Batch(NamedTuple):
    """Records whose features are being written."""

    runs: Sequence[Run[LoggedEvent | None]]
    fresh: Sequence[Run[LoggedEvent]]
    """Those of them that were not applied before."""
    moved: dict[TopicPartition, int]
    """Positions behind them."""


class _Written(NamedTuple):
    """A batch, and its writes, which are under way."""

    batch: _Batch
    columns: BatchColumns
    writes: UnderWay


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
        self._keys = keys
        self._items = items
        self._behaviour = behaviour
        self._dead_letters = dead_letters
        self._sinks = sinks
        self._topics = topics
        self._clock = clock
        self._freshness = freshness or Freshness({})
        self._config = config
        self._progress = StoredProgress(store, topics.namespace)
        self._base: dict[TopicPartition, int] = {}
        self._applied: dict[TopicPartition, int] = {}
        self._earliest: dict[TopicPartition, int] = {}
        self._live: dict[TopicPartition, int] = {}
        """What ``_applied`` is to all states but those that catch up."""
        self._behind: dict[TopicPartition, dict[bytes, int]] = {}
        self._states: frozenset[str] = frozenset()
        self._under_way: _Written | None = None
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
        self._finish()
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
            self._under_way = None
            self._begin_store()
            # Whose the partitions are now; what else it gives is read again.
            self._behaviour.poll(timeout_ms=0, max_records=1)
            self._follow_share()
            self._go_on([*self._items.assignment(), *self._behaviour.assignment()])
            return 0

    def _step(self) -> int:
        if again := self._sinks.retry():
            self._finish()
            self._go_on(again)
        records = self._behaviour.poll(
            # Who has something to wait for does that instead.
            timeout_ms=0 if self._under_way else self._config.poll_timeout_ms,
            max_records=self._config.max_records,
        )
        self._follow_share()
        if records:
            items = self._items_until_now()
        else:
            items = self._items.poll(timeout_ms=0, max_records=self._config.max_records)
        self._handle(items + records)
        if not records:
            self._finish()
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
        self._finish()
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
        self._states = self._progress.kept(self._stream.layout)
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
            self._finish()
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
        for at in lost:
            self._applied.pop(at, None)
            self._behind.pop(at, None)
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
                self._find(at, first, end)
                begin[at] = self._begin_of(at, first)
            reader.seek(begin)

    def _begin_of(self, at: TopicPartition, first: int) -> int:
        """Give from where to read: what may be a duplicate's first half, what the sink lacks."""
        horizon = HORIZON if at.topic == self._topics.behaviour else 0
        wanted = self._applied[at] - self._base[at] - horizon
        if self._sinks.needs(at):
            wanted = min(wanted, self._sinks.position(at) or 0)
        return max(wanted, first)

    def _find(self, at: TopicPartition, first: int, end: int) -> None:
        """Find the first record of a partition that is not in the store yet."""
        position, base = self._progress.of(at)
        live = position
        self._behind[at] = behind = self._progress.behind(at, self._states)
        if position is not None and behind:
            position = min(position, *behind.values())
        if position is None:
            position = live = first
            if first > 0 and self._sinks.position(at) is not None:
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
            self._sinks.begin_anew(at)
        elif position - base < first:
            raise ConfigurationError(
                f"{at.topic}[{at.partition}]: wanted to apply records from {position - base} on, "
                f"found that the log begins at {first}; run `recsys backfill`, which applies the "
                "event log and continues from there"
            )
        if position > self._applied.get(at, position):
            # Others told items what we will skip: what we remember of them lacks it, and no
            # version shows that where a category is only looked up.
            self._stream.forget()
        self._applied[at], self._base[at], self._earliest[at] = position, base, first
        self._live[at] = position if live is None else max(live, position)

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
        runs = [Run(at, some, self._decode(at, some)) for at, some in by_partition(records)]
        fresh: list[Run[LoggedEvent]] = []
        moved: dict[TopicPartition, int] = {}
        for run in runs:
            ours = known(run).shifted(self._base[run.at])
            first_fresh = ours.place(self._applied[run.at])
            for record, event in ours.part(0, first_fresh).pairs():
                self._stream.note(record, event)  # read again for its event id or for the sink
            fresh.append(ours.part(first_fresh))
            end = run.records[-1].offset + self._base[run.at] + 1
            if end > self._applied[run.at]:
                moved[run.at] = end
        batch = _Batch(runs, fresh, moved)
        if moved and not any(run.places_of(ForgetEvent) for run in fresh):
            self._send(batch)
            return
        self._finish()
        if moved:
            self._apply(fresh)
            self._applied |= moved
        self._finished(batch)

    def _send(self, batch: _Batch) -> None:
        """Compute while Redis writes the batch before; then have it write this one."""
        columns, num_duplicates = self._stream.columns(batch.fresh)
        STREAM_DUPLICATES.inc(num_duplicates)
        writes = self._stream.apply_columns(columns)
        if refused := set(self._finish()):
            # They were computed from what is not so; the others from what is.
            writes = [write for write in writes if write.key not in refused]
            writes += self._stream.apply_columns(columns)
        self._under_way = _Written(batch, columns, self._writer.send(writes))
        self._applied |= batch.moved

    def _finish(self) -> list[bytes]:
        """Wait for what is under way; gives what was refused, and is told by now."""
        written, self._under_way = self._under_way, None
        if written is None:
            return []
        refused = self._tell_again(written.columns, written.writes.refused())
        self._finished(written.batch)
        return refused

    def _finished(self, batch: _Batch) -> None:
        if batch.moved:
            # The last write: whoever reads these positions finds all before them applied.
            numbers = numbers_of(batch.moved, self._base)
            numbers |= {name: n for at, n in batch.moved.items() for name in self._behind[at]}
            self._writer.advance(numbers)
            new = [run.part(run.place(self._live[run.at])) for run in batch.fresh]
            self._freshness.observe(new, self._clock())
        self._sinks.write(batch.runs)

    def _apply(self, fresh: Sequence[Run[LoggedEvent]]) -> None:
        before: list[Run[LoggedEvent]] = []
        for run in fresh:
            begin = 0
            for n in run.places_of(ForgetEvent):
                # First what came before: what others keep of it must not depend on where the
                # batches are cut.
                self._apply_events([*before, run.part(begin, n)])
                before = []
                self._forget_user(run.records[n], run.events[n])
                begin = n + 1
            before.append(run.part(begin))
        self._apply_events(before)

    def _forget_user(self, record: Record, event: LoggedEvent) -> None:
        """Remove every hash of the user; done twice, what came after is applied twice, too."""
        if not isinstance(event, ForgetEvent):
            return
        self._stream.note(record, event)  # said again it forgets again, whatever came between
        ending = self._stream.ending_of_user(event.user_id)
        at = TopicPartition(record.topic, record.partition)
        # A write that timed out and was sent again may yet arrive: an old one must not bring the
        # user back, nor the removal come after what the user does next.
        self._writer.take([at])
        keys = [key for key in self._keys.ending(ending) if is_keyed_by_user(key)]
        # Its partition is ours, so nobody else has anything to tell this user.
        self._writer.write([Write(key, {}, ANY_VERSION, remove=True) for key in keys])
        self._writer.take([at])
        self._stream.forget_user(event.user_id)
        logger.info("user forgotten", extra={"num_hashes": len(keys)})

    def _apply_events(self, fresh: Sequence[Run[LoggedEvent]]) -> None:
        columns, num_duplicates = self._stream.columns(fresh)
        STREAM_DUPLICATES.inc(num_duplicates)
        self._tell_again(columns, self._writer.write(self._stream.apply_columns(columns)))

    def _tell_again(self, columns: BatchColumns, refused: list[bytes]) -> list[bytes]:
        """Tell hashes that were refused until none is; gives them."""
        every = refused
        while refused:
            # What was written is not fresh any more: each round tells the refused ones only.
            self._stream.forget_entities(refused)
            refused = self._writer.write(self._stream.apply_columns(columns))
            every = every + refused
        return every

    def _decode(
        self, at: TopicPartition, records: Sequence[Record]
    ) -> Sequence[LoggedEvent | None]:
        try:
            return [decode_logged(record.value) for record in records]
        except EventError:
            return self._decode_each(at, records)

    def _decode_each(
        self, at: TopicPartition, records: Sequence[Record]
    ) -> Sequence[LoggedEvent | None]:
        events: list[LoggedEvent | None] = []
        num_refused = 0
        for record in records:
            try:
                events.append(decode_logged(record.value))
            except EventError as error:
                events.append(None)
                # Not again for a state that catches up.
                if record.offset + self._base[at] >= self._live[at]:
                    send_dead_letter(self._dead_letters, self._topics.dead_letters, record, error)
                    num_refused += 1
        if num_refused:
            self._dead_letters.flush()
        return events

    def _keep(self) -> None:
        now_s = time.monotonic()
        if now_s - self._committed_s >= self._config.commit_every_s:
            self._finish()
            self._writer.advance({})  # who has nothing to write must hear of a backfill, too
            self._commit()
            self._committed_s = now_s
        if now_s - self._lag_s >= self._config.lag_every_s:
            self._lag_s = now_s
            if lag := self.lag():
                logger.info("behind the log", extra={"num_records": lag})

    def _commit(self) -> None:
        moved = {
            at: position - self._base[at]
            for at, position in self._applied.items()
            if position - self._base[at] > self._earliest[at]
        }
        if moved:
            try:
                self._behaviour.commit(moved)
            except ServerError as error:  # a rebalance, a broker away: it is for monitoring only
                logger.info("positions not committed", extra={"reason": str(error)})


def _has_first(partitions: Sequence[TopicPartition]) -> bool:
    """Say whether the partition is among these whose owner also logs the item events."""
    return any(at.partition == 0 for at in partitions)
