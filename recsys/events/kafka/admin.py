"""What a process asks the cluster itself: are you there, make these topics, where do they end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

from recsys.endpoints import BrokerProfile, Endpoints
from recsys.errors import ServerError
from recsys.events.kafka.config import (
    MAX_RECORD_BYTES,
    client_options,
    closed_on_failure,
    explained,
    is_tansu,
)
from recsys.events.kafka.reader import connect_reader
from recsys.events.log import TopicPartition
from recsys.settings import Settings


@dataclass(frozen=True, kw_only=True)
class BrokerHealth:
    """A cluster that answered."""

    address: str
    profile: BrokerProfile
    num_brokers: int
    took_ms: float
    """From connecting to the answer."""


@contextmanager
def _admin(settings: Settings, endpoints: Endpoints, *, timeout_ms: int) -> Iterator[Any]:
    options = client_options(settings, endpoints, timeout_ms=timeout_ms)
    with closed_on_failure() as network:
        client = KafkaAdminClient(**options, request_timeout_ms=timeout_ms, kafka_client=network)
    try:
        yield client
    finally:
        client.close()


def check_broker(
    settings: Settings, endpoints: Endpoints, *, timeout_s: float = 5.0
) -> BrokerHealth:
    """Ask the cluster who it is.

    Raises:
        ServerError: when it does not answer within ``timeout_s``.
    """
    begin = time.perf_counter()
    with (
        explained(endpoints, f"get an answer within {timeout_s:g} s"),
        _admin(settings, endpoints, timeout_ms=int(timeout_s * 1000)) as admin,
    ):
        num_brokers = len(admin.describe_cluster()["brokers"])
    return BrokerHealth(
        address=endpoints.require_kafka(),
        profile=endpoints.broker_profile,
        num_brokers=num_brokers,
        took_ms=(time.perf_counter() - begin) * 1000,
    )


def ensure_topics(
    settings: Settings,
    endpoints: Endpoints,
    topics: Iterable[str],
    *,
    timeout_s: float = 30.0,
) -> list[str]:
    """Create the topics that do not exist yet and give their names; harmless when repeated.

    A new topic gets ``settings.num_partitions`` partitions, the cluster's default replication, and
    the log's own clock for timestamps: retention then counts from when history was replayed, not
    from when it happened, and ``Record.timestamp_ms`` is the ingest time.

    Raises:
        ServerError: when the cluster does not answer or refuses.
    """
    wanted = list(topics)
    with (
        explained(endpoints, f"create the topics {wanted}"),
        _admin(settings, endpoints, timeout_ms=int(timeout_s * 1000)) as admin,
    ):
        present = set(admin.list_topics())
        missing = [topic for topic in wanted if topic not in present]
        for topic in missing:
            spec = {
                "num_partitions": settings.num_partitions,
                "replication_factor": 1 if is_tansu(endpoints) else -1,
                "configs": {
                    "message.timestamp.type": "LogAppendTime",
                    "max.message.bytes": str(MAX_RECORD_BYTES),
                },
            }
            try:
                admin.create_topics({topic: spec})
            except TopicAlreadyExistsError:
                continue  # another process was faster
        if missing:
            admin.wait_for_topics(missing)
    return missing


def delete_topics(
    settings: Settings, endpoints: Endpoints, topics: Iterable[str], *, timeout_s: float = 30.0
) -> None:
    """Delete topics with all their records; those that do not exist are passed over."""
    wanted = list(topics)
    with (
        explained(endpoints, f"delete the topics {wanted}"),
        _admin(settings, endpoints, timeout_ms=int(timeout_s * 1000)) as admin,
    ):
        for topic in wanted:
            try:
                admin.delete_topics([topic])
            except UnknownTopicOrPartitionError:
                continue


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long the broker keeps the records of a topic."""

    topic: str
    cleanup_policy: str
    """``delete``, ``compact`` or both."""
    retention_ms: int
    """-1: for ever."""
    retention_bytes: int
    """Of each partition; -1: no bound."""


def retention_of(
    settings: Settings, endpoints: Endpoints, topics: Sequence[str], *, timeout_s: float = 10.0
) -> list[Retention]:
    """Give the retention of topics.

    Raises:
        ServerError: when the cluster does not answer, or does not say (Tansu, a missing right).
    """
    with (
        explained(endpoints, f"read the retention of {list(topics)}"),
        _admin(settings, endpoints, timeout_ms=int(timeout_s * 1000)) as admin,
    ):
        asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
        found = admin.describe_configs(asked, config_filter="all")
        return [_retention(topic, found["topic"][topic]) for topic in topics]


def _retention(topic: str, values: Mapping[str, Any]) -> Retention:
    def of(name: str) -> str:
        if name not in values:
            raise ValueError(f"no {name} of {topic}")
        return str(values[name]["value"])

    return Retention(
        topic=topic,
        cleanup_policy=of("cleanup.policy"),
        retention_ms=int(of("retention.ms")),
        retention_bytes=int(of("retention.bytes")),
    )


def partitions_of(
    settings: Settings, endpoints: Endpoints, topics: Sequence[str]
) -> list[TopicPartition]:
    """Give every partition of the topics, in order."""
    reader = connect_reader(settings, endpoints, topics=topics, group=_probe_group(settings))
    try:
        return list(reader.assignment())
    finally:
        reader.close()


def latest_positions(
    settings: Settings, endpoints: Endpoints, topics: Sequence[str], *, timeout_s: float = 30.0
) -> dict[TopicPartition, int]:
    """Give the offset the next record of each partition will get.

    Raises:
        ServerError: when the cluster does not answer or a topic does not exist.
    """
    reader = connect_reader(settings, endpoints, topics=topics, group=_probe_group(settings))
    try:
        lag = reader.lag()
        ends = {at: position + lag[at] for at, position in reader.positions().items()}
        if is_tansu(endpoints):
            # The answer stops at the last batch's first record: read what is left of that batch.
            reader.seek(ends)
            deadline = time.monotonic() + timeout_s
            while reader.poll(timeout_ms=300, max_records=10_000):
                if time.monotonic() > deadline:
                    raise ServerError(f"the end of {list(topics)} kept moving for {timeout_s:g} s")
            ends = reader.positions()
        return ends
    finally:
        reader.close()


def _probe_group(settings: Settings) -> str:
    return f"{settings.namespace}.probe"
