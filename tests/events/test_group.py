"""Readers that share a topic's partitions, on Apache Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.events.kafka import (
    KafkaGroupReader,
    connect_group_reader,
    connect_writer,
    ensure_topics,
)
from recsys.events.log import Record, TopicPartition
from recsys.settings import Settings

pytestmark = pytest.mark.servers


class Group:
    """A topic with records, and readers of it."""

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        self.settings, self.endpoints = settings, endpoints
        self.topic = f"{settings.namespace}.shared"
        ensure_topics(settings, endpoints, [self.topic])
        self.readers: list[KafkaGroupReader] = []

    def write(self, count: int) -> None:
        writer = connect_writer(self.settings, self.endpoints)
        writer.append_all((self.topic, b"k%d" % n, b"v") for n in range(count))
        writer.close()

    def reader(self) -> KafkaGroupReader:
        reader = connect_group_reader(
            self.settings, self.endpoints, topic=self.topic, group=self.topic
        )
        self.readers.append(reader)
        return reader

    def poll_until(self, claim: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll all readers, each in a thread of its own: a rebalance waits for every one."""
        done = threading.Event()

        def run(reader: KafkaGroupReader) -> None:
            while not done.is_set():
                self.step(reader)

        threads = [threading.Thread(target=run, args=(r,)) for r in self.readers]
        for thread in threads:
            thread.start()
        end_s = time.monotonic() + timeout_s
        while not (held := claim()) and time.monotonic() < end_s:
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join()
        assert held

    def step(self, reader: KafkaGroupReader) -> list[Record]:
        records = reader.poll(timeout_ms=100, max_records=1000)
        changes = reader.changes()
        for at in changes.gained:
            reader.seek({at: 0})
        return records


@pytest.fixture
def group(own_settings: Settings, kafka_bootstrap: str) -> Iterator[Group]:
    endpoints = Endpoints(kafka_bootstrap_servers=kafka_bootstrap, broker_profile="kafka")
    group = Group(own_settings, endpoints)
    yield group
    for reader in group.readers:
        reader.close()


def test_a_gained_partition_gives_nothing_before_a_seek_then_everything_from_there(
    group: Group,
) -> None:
    group.write(100)
    reader = group.reader()
    gained: list[TopicPartition] = []
    for _ in range(30):
        assert reader.poll(timeout_ms=100, max_records=1000) == []
        gained += reader.changes().gained
    assert gained == [TopicPartition(group.topic, n) for n in (0, 1)]
    bounds = reader.bounds(gained)
    assert sum(end for _, end in bounds.values()) == 100
    reader.seek(dict.fromkeys(gained, 10))
    read: list[Record] = []
    while len(read) < 80:
        read += reader.poll(timeout_ms=1000, max_records=1000)
    assert min(record.offset for record in read) == 10
    assert sum(reader.lag().values()) == 0
    reader.commit(dict.fromkeys(gained, 50))
    assert reader.committed() == dict.fromkeys(gained, 50)


def test_readers_share_and_who_stays_keeps_where_it_was(group: Group) -> None:
    group.write(100)
    first = group.reader()
    group.poll_until(lambda: len(first.assignment()) == 2)
    group.poll_until(lambda: sum(first.positions().values()) == 100)
    second = group.reader()
    group.poll_until(lambda: len(first.assignment()) == len(second.assignment()) == 1)
    (kept,) = first.assignment()
    assert first.positions()[kept] > 0, "it was not lost in between"
    assert sorted([*first.assignment(), *second.assignment()]) == [
        TopicPartition(group.topic, n) for n in (0, 1)
    ]
    group.readers.remove(second)
    second.close()
    group.poll_until(lambda: len(first.assignment()) == 2)


def test_keeping_alive_reads_nothing_and_loses_nothing(group: Group) -> None:
    reader = group.reader()
    group.poll_until(lambda: len(reader.assignment()) == 2)
    group.write(100)
    before = reader.positions()
    for _ in range(5):
        reader.keep_alive()
    assert reader.positions() == before
    read: list[Record] = []
    for _ in range(20):
        read += reader.poll(timeout_ms=200, max_records=1000)
    assert len(read) == 100


def test_a_topic_that_does_not_exist_is_named(own_settings: Settings, kafka_bootstrap: str) -> None:
    endpoints = Endpoints(kafka_bootstrap_servers=kafka_bootstrap, broker_profile="kafka")
    with pytest.raises(ServerError, match="no topic 'nowhere'"):
        connect_group_reader(own_settings, endpoints, topic="nowhere", group="g")
