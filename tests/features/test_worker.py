"""One run of the worker over the log and the store in memory: what it does when things are odd."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from recsys.clock import DAY_MS
from recsys.errors import ConfigurationError
from recsys.events import sink as sinks
from recsys.events.codec import encode
from recsys.events.event_log import verify
from recsys.events.log import TopicPartition
from recsys.events.memory import MemoryEventLog
from recsys.events.schema import Event, InteractionEvent, ItemEvent
from recsys.events.sink import EventSink, SinkConfig
from recsys.features.hashes import MemoryHashes
from recsys.features.online import MemoryOnlineReader
from recsys.features.progress import StoredProgress
from recsys.features.stream import FeatureStream
from recsys.features.worker import WorkerConfig, WorkerRun
from tests.features.worlds import TOPICS, small_plan, vocabulary

T0 = 1_700_000_000_000 // DAY_MS * DAY_MS
PLAN = small_plan()


class Lease(MemoryHashes):
    def check(self) -> None:
        """Never lost."""


class House:
    """A log, a store and a folder that runs come and go in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Lease()
        self.sink_config = SinkConfig()
        self.log = self.new_log()

    def new_log(self) -> MemoryEventLog:
        self.log = MemoryEventLog(num_partitions=2)
        self.log.ensure_topics(TOPICS.all())
        return self.log

    def send(self, *events: Event) -> None:
        writer = self.log.writer()
        for event in events:
            topic, key = TOPICS.route(event)
            writer.append(topic, key, encode(event))
        writer.flush()

    def run(self) -> None:
        look = self.log.reader(topics=[TOPICS.items, TOPICS.behaviour], group="never")
        bounds = {at: (p, p + look.lag()[at]) for at, p in look.positions().items()}
        run = self.begin(bounds)
        try:
            run.start()
            while run.step():
                pass
            run.store()
        finally:
            self.sink.close()

    def begin(self, bounds: dict[TopicPartition, tuple[int, int]]) -> WorkerRun:
        self.sink = EventSink(self.folder, list(bounds), config=self.sink_config)
        try:
            return WorkerRun(
                stream=FeatureStream(PLAN, self.store, TOPICS),
                store=self.store,
                lease=self.store,
                items=self.log.reader(topics=[TOPICS.items], group="f"),
                behaviour=self.log.reader(topics=[TOPICS.behaviour], group="f"),
                bounds=bounds,
                dead_letters=self.log.writer(),
                sink=self.sink,
                topics=TOPICS,
                clock=lambda: T0,
                config=WorkerConfig(poll_timeout_ms=1, disk_retry_s=0.01),
            )
        except BaseException:
            self.sink.close()
            raise

    def counts(self) -> list[float]:
        reader = MemoryOnlineReader(PLAN, self.store)
        found = reader.read_users(["u0"], vocabulary=vocabulary(), now_ms=T0 + 10_000)
        return [float(v) for v in found.history_count.values]


def click(n: int) -> InteractionEvent:
    return InteractionEvent(
        event_id=f"c{n}", event_time_ms=T0 + n, user_id="u0", item_id="i1", type="click"
    )


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
    house.store = Lease()
    house.run()
    assert house.store.content == before


def test_features_of_other_declarations_are_refused(house: House) -> None:
    house.send(click(0))
    house.run()
    progress = StoredProgress(house.store, "test")
    house.store.write([progress.fields({}, {}, "another")])
    with pytest.raises(ConfigurationError, match="feature_repo changed; run `recsys backfill`"):
        house.run()


def test_half_a_backfill_is_refused(house: House) -> None:
    progress = StoredProgress(house.store, "test")
    house.store.write([progress.fields({}, {}, "x", in_backfill=True)])
    with pytest.raises(ConfigurationError, match="half a backfill"):
        house.run()


def test_records_deleted_before_they_were_applied_are_missed(house: House) -> None:
    house.send(click(0))
    house.run()
    deleted = {at: (5, 9) for at, position in positions(house).items() if position == 1}
    with pytest.raises(ConfigurationError, match=r"from 1 on.*begins at 5; run `recsys backfill`"):
        house.begin(deleted)
    house.store = Lease()
    with pytest.raises(ConfigurationError, match=r"empty online store; run `recsys backfill`"):
        house.begin(deleted)


def positions(house: House) -> dict[TopicPartition, int | None]:
    progress = StoredProgress(house.store, "test")
    partitions = [TopicPartition(TOPICS.behaviour, p) for p in (0, 1)]
    return {at: progress.of(at)[0] for at in partitions}


def test_a_full_disk_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.send(click(0))
    house.sink_config = SinkConfig(max_rows=1)
    whole = sinks.write_durably
    tries = 0

    def full_twice(path: Path, data: bytes) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, data)

    monkeypatch.setattr(sinks, "write_durably", full_twice)
    house.run()
    assert tries > 2
    assert verify(house.folder).num_rows == 1
    assert house.counts() == [1.0]
