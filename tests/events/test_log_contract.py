"""What every event log does, in memory, on Apache Kafka and on Tansu."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from recsys.clock import MINUTE_MS, now_ms
from recsys.errors import ServerError
from recsys.events.log import EventWriter, TopicPartition
from recsys.events.memory import MemoryEventLog
from recsys.events.partitioning import partition_of

if TYPE_CHECKING:
    from tests.events.conftest import Log, ReadAll


@pytest.fixture
def topic(log: Log, new_name: Callable[[str], str]) -> str:
    name = new_name("contract")
    log.ensure_topics([name])
    return name


@pytest.fixture
def writer(log: Log) -> Iterator[EventWriter]:
    writer = log.writer()
    yield writer
    writer.close()


def test_what_is_written_is_read_with_key_value_and_ingest_time(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    begin_ms = now_ms()
    writer.append(topic, b"user-1", b"hello")
    writer.flush()
    reader = log.reader(topics=[topic], group="g")
    (record,) = read_all(reader, 1)
    reader.close()
    assert (record.topic, record.key, record.value, record.offset) == (
        topic,
        b"user-1",
        b"hello",
        0,
    )
    assert begin_ms - MINUTE_MS < record.timestamp_ms < now_ms() + MINUTE_MS


def test_records_of_one_key_keep_their_order_in_kafkas_own_partition(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    keys = [f"user-{i}".encode() for i in range(20)]
    for n in range(50):
        for key in keys:
            writer.append(topic, key, b"%d" % n)
    writer.flush()
    reader = log.reader(topics=[topic], group="g")
    records = read_all(reader, 1000)
    reader.close()
    by_key: dict[bytes, list[int]] = defaultdict(list)
    for record in records:
        assert record.key is not None
        assert record.partition == partition_of(record.key, 4)
        by_key[record.key].append(int(record.value))
    assert by_key == {key: list(range(50)) for key in keys}


def test_offsets_count_up_by_one_from_zero(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    writer.append_all((topic, b"k%d" % i, b"v") for i in range(200))
    reader = log.reader(topics=[topic], group="g")
    offsets = defaultdict(list)
    for record in read_all(reader, 200):
        offsets[record.partition].append(record.offset)
    reader.close()
    assert sum(map(len, offsets.values())) == 200
    for found in offsets.values():
        assert found == list(range(len(found)))


def test_a_group_goes_on_where_it_committed(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    writer.append_all((topic, b"k%d" % i, b"v%d" % i) for i in range(100))
    first = log.reader(topics=[topic], group="g")
    assert first.committed() == {}
    before = first.poll(timeout_ms=20_000, max_records=30)
    assert 0 < len(before) <= 30
    first.commit(first.positions())
    first.poll(timeout_ms=1000, max_records=30)  # read, but not committed
    first.close()
    second = log.reader(topics=[topic], group="g")
    after = read_all(second, 100 - len(before))
    second.close()
    other = log.reader(topics=[topic], group="another")
    everything = read_all(other, 100)
    other.close()
    assert len(everything) == 100
    assert {r.value for r in before} | {r.value for r in after} == {r.value for r in everything}
    assert len(before) + len(after) == 100


def test_seek_reads_again_and_leaves_other_partitions(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    writer.append_all((topic, b"k%d" % i, b"v") for i in range(100))
    reader = log.reader(topics=[topic], group="g")
    records = read_all(reader, 100)
    at = TopicPartition(topic, records[0].partition)
    count = sum(r.partition == at.partition for r in records)
    reader.seek({at: 2})
    again = read_all(reader, count - 2)
    assert [r.offset for r in again] == list(range(2, count))
    assert {r.partition for r in again} == {at.partition}
    reader.close()


def test_lag_and_latest_positions_count_what_is_left(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    writer.append_all((topic, b"k%d" % i, b"v") for i in range(100))
    latest = log.latest_positions([topic])
    assert sum(latest.values()) == 100
    reader = log.reader(topics=[topic], group="g")
    read_all(reader, 100)
    assert reader.positions() == latest
    assert sum(reader.lag().values()) == 0
    writer.append_all((topic, b"k%d" % i, b"v") for i in range(10))
    assert sum(log.latest_positions([topic]).values()) == 110
    reader.close()


def test_two_readers_share_the_partitions(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    writer.append_all((topic, b"k%d" % i, b"v%d" % i) for i in range(100))
    shares = [[TopicPartition(topic, p) for p in part] for part in ([0, 1], [2, 3])]
    values = []
    for share in shares:
        reader = log.reader(topics=[topic], group="g", partitions=share)
        assert list(reader.assignment()) == share
        ends = log.latest_positions([topic])
        values += [r.value for r in read_all(reader, sum(ends[at] for at in share))]
        reader.close()
    assert sorted(values) == sorted(b"v%d" % i for i in range(100))


def test_an_empty_topic_gives_nothing_after_the_timeout(log: Log, topic: str) -> None:
    reader = log.reader(topics=[topic], group="g")
    assert reader.poll(timeout_ms=100, max_records=10) == []
    reader.close()


def test_threads_share_a_writer_without_loss(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    def send(name: str) -> None:
        for n in range(250):
            writer.append(topic, name.encode(), f"{name}:{n}".encode())
        writer.flush()

    threads = [threading.Thread(target=send, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = log.reader(topics=[topic], group="g")
    values = [r.value.decode() for r in read_all(reader, 1000)]
    reader.close()
    for i in range(4):
        assert [v for v in values if v.startswith(f"t{i}:")] == [f"t{i}:{n}" for n in range(250)]


def test_a_position_that_does_not_exist_is_said_and_seek_heals(
    log: Log, topic: str, writer: EventWriter, read_all: ReadAll
) -> None:
    writer.append_all([(topic, b"k", b"v")])
    at = TopicPartition(topic, partition_of(b"k", 4))
    reader = log.reader(topics=[topic], group="g")
    reader.seek({at: 1_000_000})
    with pytest.raises(ServerError, match="seek"):
        for _ in range(20):
            reader.poll(timeout_ms=500, max_records=10)
    reader.seek({at: 0})
    assert [r.value for r in read_all(reader, 1)] == [b"v"]
    reader.close()


# Tansu creates it instead.
@pytest.mark.parametrize(
    "log", ["memory", pytest.param("kafka", marks=pytest.mark.servers)], indirect=True
)
def test_an_unknown_topic_is_said(log: Log) -> None:
    if isinstance(log, MemoryEventLog):
        writer: EventWriter = log.writer()
    else:
        from recsys.events.kafka import WriterConfig

        writer = log.writer(config=WriterConfig(topic_timeout_ms=300))
    with pytest.raises(ServerError, match="ensure_topics"):
        writer.append("no-such-topic-here", b"k", b"v")


def test_a_closed_writer_is_said(log: Log, topic: str) -> None:
    writer = log.writer()
    writer.close()
    writer.close()
    with pytest.raises(ServerError, match="closed"):
        writer.append(topic, b"k", b"v")


def test_ensure_topics_twice_is_harmless(log: Log, topic: str, writer: EventWriter) -> None:
    writer.append_all([(topic, b"k", b"v")])
    log.ensure_topics([topic])
    assert sum(log.latest_positions([topic]).values()) == 1
