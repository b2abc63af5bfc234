"""The event log on each of its implementations: in memory, on Apache Kafka, on Tansu."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from recsys.endpoints import BrokerProfile, Endpoints
from recsys.events.log import EventReader, EventWriter, Record, TopicPartition
from recsys.events.memory import MemoryEventLog
from recsys.settings import Settings

ReadAll = Callable[[EventReader, int], list[Record]]


class Log(Protocol):
    """What every implementation of the event log can do."""

    def writer(self) -> EventWriter: ...

    def reader(
        self,
        *,
        topics: Sequence[str],
        group: str,
        partitions: Sequence[TopicPartition] | None = None,
    ) -> EventReader: ...

    def ensure_topics(self, topics: Iterable[str]) -> object: ...

    def latest_positions(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]: ...


@dataclass(frozen=True, kw_only=True)
class KafkaLog:
    """The real log behind the same four calls as ``MemoryEventLog``."""

    settings: Settings
    endpoints: Endpoints

    def writer(self, **options: Any) -> EventWriter:
        from recsys.events.kafka import connect_writer

        return connect_writer(self.settings, self.endpoints, **options)

    def reader(
        self,
        *,
        topics: Sequence[str],
        group: str,
        partitions: Sequence[TopicPartition] | None = None,
    ) -> EventReader:
        from recsys.events.kafka import connect_reader

        return connect_reader(
            self.settings, self.endpoints, topics=topics, group=group, partitions=partitions
        )

    def ensure_topics(self, topics: Iterable[str]) -> object:
        from recsys.events.kafka import ensure_topics

        return ensure_topics(self.settings, self.endpoints, topics)

    def latest_positions(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        from recsys.events.kafka import latest_positions

        return latest_positions(self.settings, self.endpoints, topics)


def kafka_log(bootstrap: str, profile: BrokerProfile) -> KafkaLog:
    endpoints = Endpoints(kafka_bootstrap_servers=bootstrap, broker_profile=profile)
    return KafkaLog(settings=Settings(), endpoints=endpoints)


@pytest.fixture
def new_name() -> Callable[[str], str]:
    """Names nobody used before: the brokers live as long as the test session."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture(
    params=[
        "memory",
        pytest.param("kafka", marks=pytest.mark.servers),
        pytest.param("tansu", marks=pytest.mark.servers),
    ]
)
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    if request.param == "memory":
        yield MemoryEventLog()
    else:
        yield kafka_log(request.getfixturevalue(f"{request.param}_bootstrap"), request.param)


@pytest.fixture
def real_log(request: pytest.FixtureRequest) -> KafkaLog:
    return kafka_log(request.getfixturevalue("kafka_bootstrap"), "kafka")


@pytest.fixture
def read_all() -> ReadAll:
    """Poll until ``count`` records came or nothing did for 20 s."""

    def read(reader: EventReader, count: int) -> list[Record]:
        taken: list[Record] = []
        while len(taken) < count:
            records = reader.poll(timeout_ms=20_000, max_records=1000)
            if not records:
                break
            taken += records
        return taken

    return read
