"""One run of the worker over the log and the store in memory: what it does when things are odd."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from recsys.clock import DAY_MS, Clock, now_ms
from recsys.errors import ConfigurationError
from recsys.events import sink as sinks
from recsys.events.codec import decode_logged, encode
from recsys.events.log import FixedShare, TopicPartition
from recsys.events.log_verify import verify
from recsys.events.memory import MemoryEventLog, MemoryEventReader
from recsys.events.schema import InteractionEvent, ItemEvent, LoggedEvent
from recsys.events.sink import EventSink, SinkConfig
from recsys.features.freshness import Freshness, views_of_kinds
from recsys.features.guarded_writer import StoreChangedError
from recsys.features.hashes import MemoryHashes, Write
from recsys.features.online import MemoryOnlineReader
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.plan import Plan
from recsys.features.progress import StoredProgress, progress_key
from recsys.features.stream import FeatureStream
from recsys.features.worker import WorkerConfig, WorkerRun
from tests.features.worlds import TOPICS, random_events, small_plan, unversioned, vocabulary

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
PLAN = small_plan()


class Later:
    """Writes that are done as late as may be: when they are waited for."""

    def __init__(self, store: Store, writes: Sequence[Write]) -> None:
        self._store, self._writes = store, writes

    def refused(self) -> list[bytes]:
        for act in self._store.meanwhile:
            act()
        return self._store.write(self._writes)


class Store(MemoryHashes):
    """The store of a namespace in memory, as ``GuardedWriter`` shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Callable[[], None]] = []
        """What others do while writes are under way."""

    def send(self, writes: Sequence[Write]) -> Later:
        return Later(self, writes)

    is_begun = True
    changed = 0

    def begin(self) -> bool:
        self.changed = 0
        return self.is_begun

    def write(self, writes: Sequence[Write]) -> list[bytes]:
        if self.changed:
            raise StoreChangedError("wanted the store of before")
        return super().write(writes)

    def found(self, layout: str) -> None:
        self.write([StoredProgress(self, "test").fields({}, {}, layout)])

    def take(self, partitions: Sequence[TopicPartition]) -> None:
        """Nobody else is there."""

    def let_go(self, partitions: Sequence[TopicPartition]) -> None:
        """Nobody else is there."""

    def advance(self, numbers: Mapping[bytes, int]) -> None:
        own = self.content.setdefault(progress_key("test"), {})
        for name, value in numbers.items():
            own[name] = b"%d" % max(value, int(own.get(name, value)))


class House:
    """A log, a store and a folder that runs come and go in."""

    def __init__(self, folder: Path, plan: Plan = PLAN, clock: Clock = now_ms) -> None:
        self.folder = folder
        self.plan = plan
        self.clock = clock
        """Of the log."""
        self.store = Store()
        self.sink_config = SinkConfig()
        self.stream: dict[str, int] = {}
        self.mine: tuple[int, ...] = (0, 1)
        self.config = WorkerConfig(poll_timeout_ms=1)
        self.bounds: dict[TopicPartition, tuple[int, int]] = {}
        self.log = self.new_log()

    def new_log(self) -> MemoryEventLog:
        self.log = MemoryEventLog(num_partitions=2, clock=self.clock)
        self.log.ensure_topics(TOPICS.all())
        return self.log

    def send(self, *events: LoggedEvent) -> None:
        writer = self.log.writer()
        for event in events:
            topic, key = TOPICS.route(event)
            writer.append(topic, key, encode(event))
        writer.flush()

    def run(self) -> None:
        run = self.begin()
        try:
            run.start()
            while run.step():
                pass
            run.close()
        finally:
            self.sinks.close()

    def begin(self) -> WorkerRun:
        self.sinks = PartitionSinks(
            lambda at: EventSink(self.folder, [at], config=self.sink_config), retry_s=0.0
        )
        stream = FeatureStream(self.plan, self.store, TOPICS, **self.stream)
        if progress_key("test") not in self.store.content:
            self.store.found(stream.layout)
        return WorkerRun(
            stream=stream,
            store=self.store,
            writer=self.store,
            keys=self.store,
            items=Trimmed(self.log.reader(topics=[TOPICS.items], group="f"), self.bounds),
            behaviour=FixedShare(
                Trimmed(
                    self.log.reader(
                        topics=[],
                        group="f",
                        partitions=[TopicPartition(TOPICS.behaviour, n) for n in self.mine],
                    ),
                    self.bounds,
                )
            ),
            dead_letters=self.log.writer(),
            sinks=self.sinks,
            topics=TOPICS,
            clock=lambda: T0,
            freshness=Freshness(views_of_kinds(self.plan)),
            config=self.config,
        )

    def counts(self) -> list[float]:
        reader = MemoryOnlineReader(PLAN, self.store)
        found = reader.read_users(["u0"], vocabulary=vocabulary(), now_ms=T0 + 10_000)
        return [float(v) for v in found.history_count.values]


def click(n: int) -> InteractionEvent:
    return InteractionEvent(
        event_id=f"c{n}", event_time_ms=T0 + n, user_id="u0", item_id="i1", type="click"
    )


class Trimmed(MemoryEventReader):
    """A reader of a log whose oldest records were deleted."""

    def __init__(
        self, reader: MemoryEventReader, bounds: Mapping[TopicPartition, tuple[int, int]]
    ) -> None:
        self.__dict__ = reader.__dict__
        self._bounds = bounds

    def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:  # fmt: skip
        found = super().bounds(partitions)
        return {at: self._bounds.get(at, found[at]) for at in partitions}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_runs_follow_on_each_other(house: House) -> None:
    house.send(ItemEvent(event_id="i", event_time_ms=T0, item_id="i1", category="tea"), click(0))
    house.run()
    house.send(click(1), click(0), click(2))  # one of them was sent before
    house.run()
    house.run()
    assert house.counts() == [3.0]
    assert verify(house.folder).is_sound


def test_nonsense_goes_to_the_dead_letters_once(house: House) -> None:
    house.send(click(0))
    house.log.writer().append(TOPICS.behaviour, b"u0", b"{}")
    house.send(click(1))
    house.run()
    house.run()
    letters = house.log.reader(topics=[TOPICS.dead_letters], group="l")
    assert len(letters.poll(timeout_ms=0, max_records=10)) == 1
    assert house.counts() == [2.0]


def test_a_log_lost_from_memory_begins_anew(house: House) -> None:
    house.send(*(click(n) for n in range(5)))
    house.run()
    house.new_log()
    house.send(click(10), click(11))
    house.run()
    assert house.counts() == [7.0]
    house.send(click(12))
    house.run()
    assert house.counts() == [8.0]
    report = verify(house.folder)
    assert report.is_sound
    assert report.num_rows == 8


def test_a_lost_store_is_made_anew_from_the_log(house: House) -> None:
    house.send(*(click(n) for n in range(5)))
    house.run()
    before = house.store.content
    house.store = Store()
    house.run()
    assert house.store.content == before


def test_features_of_other_declarations_are_refused(house: House) -> None:
    house.send(click(0))
    house.run()
    progress = StoredProgress(house.store, "test")
    house.store.write([progress.fields({}, {}, "another")])
    with pytest.raises(ConfigurationError, match="nothing here declares another"):
        house.run()


def test_half_a_backfill_is_refused(house: House) -> None:
    progress = StoredProgress(house.store, "test")
    house.store.write([progress.fields({}, {}, "x", in_backfill=True)])
    with pytest.raises(ConfigurationError, match="half a backfill"):
        house.run()


def test_records_deleted_before_they_were_applied_are_missed(house: House) -> None:
    house.send(click(0))
    house.run()
    house.bounds = {at: (5, 9) for at, position in positions(house).items() if position == 1}
    with pytest.raises(ConfigurationError, match=r"from 1 on.*begins at 5; run `recsys backfill`"):
        house.run()
    house.store = Store()
    with pytest.raises(ConfigurationError, match=r"empty online store; run `recsys backfill`"):
        house.run()


def positions(house: House) -> dict[TopicPartition, int | None]:
    progress = StoredProgress(house.store, "test")
    partitions = [TopicPartition(TOPICS.behaviour, p) for p in (0, 1)]
    return {at: progress.of(at)[0] for at in partitions}


def test_a_full_disk_delays_the_event_log_but_no_feature(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.send(click(0))
    house.sink_config = SinkConfig(max_rows=1)
    whole = sinks.write_durably
    is_full = True

    def full(path: Path, data: bytes) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, data)

    monkeypatch.setattr(sinks, "write_durably", full)
    run = house.begin()
    run.start()
    while run.step():
        pass
    house.send(click(1), click(2))
    for _ in range(5):
        run.step()
    assert house.counts() == [3.0]
    assert verify(house.folder).num_rows == 0
    is_full = False
    for _ in range(5):
        run.step()
    house.send(click(3))
    while run.step():
        pass
    run.close()
    report = verify(house.folder)
    assert (report.is_sound, report.num_rows) == (True, 4), report.problems
    assert house.counts() == [4.0]


@pytest.mark.parametrize("num_before", [0, 2])
def test_a_sink_that_is_had_late_leaves_no_hole(house: House, num_before: int) -> None:
    """The batch that is under way just then comes after others that were left out."""
    house.send(*map(click, range(num_before)))
    house.run()
    house.config = WorkerConfig(poll_timeout_ms=1, max_records=2)
    run = house.begin()
    run.start()
    run._sinks.close()
    partitions = [TopicPartition(TOPICS.behaviour, n) for n in (0, 1)]
    another = EventSink(house.folder, partitions)
    run._sinks.take(partitions)
    house.send(*map(click, range(num_before, 12)))
    for _ in range(4):
        run.step()
    another.close()
    while run.step():
        pass
    run.close()
    report = verify(house.folder)
    assert (report.is_sound, report.num_rows) == (True, 12), report.problems
    assert house.counts() == [12.0]


def test_a_store_that_changed_under_the_worker_is_read_again(house: House) -> None:
    house.send(click(0), click(1))
    run = house.begin()
    run.start()
    while run.step():
        pass
    before = {key: dict(fields) for key, fields in house.store.content.items()}
    house.send(click(2), click(3))
    while run.step():
        pass
    # Restarted, and its last second is gone.
    house.store.content = before
    house.store.changed = 1
    house.send(click(4))
    for _ in range(8):
        run.step()
    run.close()
    assert house.counts() == [5.0]
    assert verify(house.folder).num_rows == 5


def test_the_first_run_over_an_empty_store_wants_it_begun(house: House) -> None:
    run = house.begin()
    house.store.is_begun = False
    with pytest.raises(StoreChangedError, match="empty online store"):
        run.start()
    house.sinks.close()


def test_a_hash_another_wrote_is_told_only_what_it_lacks(house: House) -> None:
    house.send(click(0))
    house.run()
    run = house.begin()
    run.start()
    house.send(click(1))
    while run.step():
        pass
    # Another worker, that has the same partition for a moment, is faster.
    other = FeatureStream(PLAN, house.store, TOPICS)
    house.send(click(2))
    (record,) = [
        r
        for r in house.log.reader(topics=[TOPICS.behaviour], group="x").poll(
            timeout_ms=0, max_records=99
        )
        if r.offset == 2
    ]
    assert house.store.write(other.apply([(record, click(2))])[0]) == []
    house.send(click(3))
    while run.step():
        pass
    run.close()
    assert house.counts() == [4.0]


@pytest.mark.parametrize("seed", range(8))
def test_others_may_write_while_writes_are_under_way(tmp_path: Path, seed: int) -> None:
    """Of two workers with a partition each, one tells its records while the other's are written."""
    rng = np.random.default_rng(seed)
    events = random_events(rng, start_ms=T0 - DAY_MS, span_ms=DAY_MS // 2, num_events=150)
    contents = []
    sent = House(tmp_path, clock=count(T0).__next__)  # what was known when must not be luck
    sent.send(*events)
    for is_rivalled in (False, True):
        house = House(tmp_path / str(is_rivalled))
        house.log = sent.log  # its time stamps are part of what is computed
        if is_rivalled:
            rival = Rival(house, rng)
            house.mine = (0,)
            house.stream = {"max_remembered": 9 if seed % 2 else 999}
            house.config = WorkerConfig(poll_timeout_ms=1, max_records=int(rng.integers(2, 30)))
            house.store.meanwhile.append(rival.act)
        house.run()
        if is_rivalled:
            rival.finish()
        content = unversioned(house.store.content)
        content.pop(progress_key("test"))
        contents.append(content)
    assert contents[0] == contents[1]


class Rival:
    """Another worker, which has the second partition, believes to have both, and is faster."""

    def __init__(self, house: House, rng: np.random.Generator) -> None:
        self._house, self._rng = house, rng
        reader = house.log.reader(topics=[TOPICS.items, TOPICS.behaviour], group="rival")
        records = reader.poll(timeout_ms=0, max_records=9999)
        self._left = [r for r in records if r.topic == TOPICS.items]
        behaviour = [r for r in records if r.topic == TOPICS.behaviour]
        self._left += [r for r in behaviour if r.partition == 1]
        self._not_mine = [r for r in behaviour if r.partition == 0]

    def act(self) -> None:
        num = int(self._rng.choice([0, 0, 1, 5, 40]))
        some, self._left = self._left[:num], self._left[num:]
        has_items = not any(record.topic == TOPICS.items for record in self._left)
        if num and has_items and self._rng.random() < 0.7:  # it was its own a moment ago
            some += self._not_mine[: self._rng.integers(len(self._not_mine))]
        # It knows nothing of what it wrote before: every write of its own counts once.
        stream = FeatureStream(PLAN, self._house.store, TOPICS)
        batch = [(record, decode_logged(record.value)) for record in some]
        assert self._house.store.write(stream.apply(batch)[0]) == []

    def finish(self) -> None:
        while self._left:
            self.act()
