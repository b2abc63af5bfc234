"""What only the real log does: brokers that are away, die and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from kafka import KafkaProducer

from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.events.kafka import (
    WriterConfig,
    check_broker,
    connect_reader,
    connect_writer,
    ensure_topics,
)
from recsys.events.kafka.config import client_options
from recsys.events.kafka.reader import share_of
from recsys.events.log import TopicPartition
from recsys.settings import Settings
from serving.embedded.kafka import kafka_launch
from serving.embedded.launch import Launch
from tests.events.conftest import KafkaLog, ReadAll
from tests.servers import free_ports


def test_workers_share_the_same_numbers_of_every_topic() -> None:
    partitions = [TopicPartition(topic, n) for topic in ("a", "b") for n in range(5)]
    shares = [share_of(partitions, index=i, num_workers=2) for i in range(2)]
    assert [at.partition for at in shares[0]] == [0, 2, 4, 0, 2, 4]
    assert sorted(shares[0] + shares[1]) == partitions


def test_an_absent_broker_is_said_with_what_to_do() -> None:
    endpoints = Endpoints(kafka_bootstrap_servers=f"127.0.0.1:{free_ports(1)}")
    with pytest.raises(ServerError, match=r"wanted to get an answer within 0.3 s.*recsys status"):
        check_broker(Settings(), endpoints, timeout_s=0.3)


_FAILING = """
import gc, os, sys, threading
from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.events.kafka import check_broker, connect_writer
from recsys.settings import Settings

endpoints = Endpoints(kafka_bootstrap_servers=sys.argv[1])
for _ in range(4):
    for connect in (check_broker, connect_writer):
        try:
            connect(Settings(), endpoints, timeout_s=0.1)
        except ServerError:
            continue
        sys.exit("wanted a failure")
    gc.collect()  # the client keeps one refused connection in a ring
    print(len(os.listdir("/proc/self/fd")), threading.active_count())
"""


def test_failed_connections_leave_nothing_behind() -> None:
    command = [sys.executable, "-c", _FAILING, f"127.0.0.1:{free_ports(1)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    held = done.stdout.splitlines()
    assert len(held) == 4
    assert len(set(held)) == 1, f"descriptors and threads: {held}"


def test_an_unknown_security_protocol_is_said() -> None:
    endpoints = Endpoints(kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(ServerError, match=r"wanted one of PLAINTEXT, SSL.*found 'TLS'"):
        check_broker(Settings(KAFKA_SECURITY_PROTOCOL="TLS"), endpoints, timeout_s=0.3)


@pytest.mark.servers
def test_health_of_a_running_broker(real_log: KafkaLog) -> None:
    health = check_broker(real_log.settings, real_log.endpoints)
    assert (health.num_brokers, health.profile) == (1, "kafka")
    assert health.took_ms > 0


@pytest.mark.servers
def test_a_small_buffer_slows_the_writer_down_and_loses_nothing(
    real_log: KafkaLog, new_name: Callable[[str], str], read_all: ReadAll
) -> None:
    topic = new_name("small")
    real_log.ensure_topics([topic])
    config = WriterConfig(max_buffered_records=300, max_buffered_bytes=20_000)
    writer = connect_writer(real_log.settings, real_log.endpoints, config=config)
    for n in range(2000):
        writer.append(topic, b"k", b"%050d" % n)
    writer.close()
    reader = real_log.reader(topics=[topic], group="g")
    assert [int(r.value) for r in read_all(reader, 2000)] == list(range(2000))
    reader.close()


@pytest.mark.servers
def test_records_of_other_senders_are_read_as_they_are(
    real_log: KafkaLog, new_name: Callable[[str], str], read_all: ReadAll
) -> None:
    """Compressed or not, with headers, without key; and without value, which reads as an empty one.

    A broker that keeps the latest record of a key writes such records: they must not end a worker.
    """
    topic = new_name("foreign")
    real_log.ensure_topics([topic])
    wanted: list[tuple[bytes | None, bytes]] = []
    for n, codec in enumerate([None, "gzip", "lz4", "zstd"]):
        producer = KafkaProducer(
            **client_options(real_log.settings, real_log.endpoints, timeout_ms=10_000),
            compression_type=codec,
        )
        for k, value in enumerate([b"some value", b"", None, b"x" * 20_000]):
            key = b"k%d" % n if k else None
            headers = [("trace", b"1")] * k
            producer.send(topic, value, key, headers=headers, partition=0, timestamp_ms=1)
            wanted.append((key, value or b""))
        producer.close()
    reader = real_log.reader(topics=[topic], group="g")
    found = read_all(reader, len(wanted))
    assert [(record.key, record.value) for record in found] == wanted
    assert [record.offset for record in found] == list(range(len(wanted)))
    assert min(record.timestamp_ms for record in found) > 1  # the broker's, not the sender's
    reader.close()


@pytest.mark.servers
def test_a_record_too_big_is_said_and_the_writer_goes_on(
    real_log: KafkaLog, new_name: Callable[[str], str], read_all: ReadAll
) -> None:
    topic = new_name("big")
    real_log.ensure_topics([topic])
    writer = real_log.writer()
    with pytest.raises(ServerError, match="wanted to append 5000000 bytes"):
        writer.append(topic, b"k", b"x" * 5_000_000)
    big = os.urandom(1_500_000)  # a dead letter of a foreign record
    writer.append_all([(topic, b"k", big), (topic, b"k", b"small")])
    writer.close()
    reader = real_log.reader(topics=[topic], group="g")
    assert [r.value for r in read_all(reader, 2)] == [big, b"small"]
    reader.close()


@pytest.mark.servers
def test_a_killed_broker_loses_no_acknowledged_record_and_keeps_the_order(
    own_settings: Settings,
    own_server: Callable[[Launch], subprocess.Popen[bytes]],
    kafka_bootstrap: str,  # skips where Kafka cannot be had
    read_all: ReadAll,
) -> None:
    launch = kafka_launch(own_settings, lambda line: None)
    broker = own_server(launch)
    endpoints = Endpoints(kafka_bootstrap_servers=launch.address, broker_profile="kafka")
    ensure_topics(own_settings, endpoints, ["killed"])
    writer = connect_writer(own_settings, endpoints)
    reader = connect_reader(own_settings, endpoints, topics=["killed"], group="g")
    writer.append_all(("killed", b"k", b"%d" % n) for n in range(500))
    assert len(read_all(reader, 300)) >= 300
    reader.commit(reader.positions())

    again = threading.Timer(1.0, own_server, [launch])
    os.kill(broker.pid, signal.SIGKILL)
    broker.wait()
    again.start()
    for n in range(500, 1500):
        writer.append("killed", b"k", b"%d" % n)
    writer.flush(timeout_s=60)
    writer.close()
    again.join()
    rest = 1500 - sum(reader.positions().values())
    read_all(reader, rest)
    assert sum(reader.lag().values()) == 0
    reader.close()
    fresh = connect_reader(own_settings, endpoints, topics=["killed"], group="fresh")
    values = [int(record.value) for record in read_all(fresh, 1500)]
    fresh.close()
    assert values == list(range(1500))
