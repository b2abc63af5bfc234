"""Reading from Kafka: a fixed share of the partitions, positions stored by group.

Partitions are assigned, not negotiated: whoever keeps state by partition must know its partitions
before it reads, a rebalance would move them under its feet, and the developer's broker cannot
survive one. Several workers share a topic by being given ``share_of`` its partitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer
from kafka import TopicPartition as ClientPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.events.kafka.config import (
    ReaderConfig,
    closed_on_failure,
    consumer_options,
    explained,
    explanation,
    is_tansu,
)
from recsys.events.kafka.record_batches import as_records, take_apart
from recsys.events.log import Record, TopicPartition
from recsys.settings import Settings

_COMMIT_TIMEOUT_MS = 5_000
"""A coordinator that is away must not hold up reading."""


def share_of(
    partitions: Sequence[TopicPartition], *, index: int, num_workers: int
) -> list[TopicPartition]:
    """Give worker ``index`` of ``num_workers`` its partitions: the same numbers of every topic."""
    return [at for at in partitions if at.partition % num_workers == index]


def connect_reader(
    settings: Settings,
    endpoints: Endpoints,
    *,
    topics: Sequence[str],
    group: str,
    partitions: Sequence[TopicPartition] | None = None,
    config: ReaderConfig = ReaderConfig(),  # noqa: B008  frozen
) -> KafkaEventReader:
    """Give a reader that starts where ``group`` committed, else at the beginning.

    Args:
        settings: Security and names.
        endpoints: Where the cluster is.
        topics: Read when ``partitions`` is ``None``: all their partitions.
        group: Under which name positions are stored.
        partitions: The share of this reader.
        config: Waiting and bounds.

    Raises:
        ServerError: when no broker answers or a topic does not exist.
    """
    options = consumer_options(settings, endpoints, group, config)
    wanted = f"connect a reader of {list(topics)}"
    with explained(endpoints, wanted), closed_on_failure() as client:
        consumer = KafkaConsumer(
            **options,
            kafka_client=client,
            **({"enable_incremental_fetch_sessions": False} if is_tansu(endpoints) else {}),
        )
    try:
        with explained(endpoints, f"find the partitions and positions of {list(topics)}"):
            assigned = _partitions(consumer, topics) if partitions is None else list(partitions)
            reader = KafkaEventReader(consumer, endpoints, assigned, group)
            reader._start(config.start_timeout_ms)
    except BaseException:
        consumer.close(autocommit=False)
        raise
    return reader


def _partitions(consumer: Any, topics: Sequence[str]) -> list[TopicPartition]:
    found: list[TopicPartition] = []
    for topic in topics:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise ValueError(f"no topic {topic!r} (ensure_topics creates it)")
        found += [TopicPartition(topic, number) for number in sorted(numbers)]
    return found


class KafkaEventReader:
    """See ``EventReader``. Not thread-safe."""

    def __init__(
        self,
        consumer: Any,
        endpoints: Endpoints,
        partitions: Sequence[TopicPartition],
        group: str,
    ) -> None:
        take_apart(consumer)
        self._consumer = consumer
        self._endpoints = endpoints
        self._partitions: tuple[TopicPartition, ...] = tuple(partitions)
        self._group = group
        self._positions: dict[TopicPartition, int] = {}
        self._is_tansu = is_tansu(endpoints)

    def _start(self, timeout_ms: int) -> None:
        clients = [ClientPartition(*at) for at in self._partitions]
        self._consumer.assign(clients)
        committed = self.committed()
        earliest = self._consumer.beginning_offsets(clients, timeout_ms=timeout_ms)
        self.seek(
            {at: committed.get(at, earliest[ClientPartition(*at)]) for at in self._partitions}
        )

    def assignment(self) -> Sequence[TopicPartition]:
        """See ``EventReader.assignment``."""
        return self._partitions

    def seek(self, positions: Mapping[TopicPartition, int]) -> None:
        """See ``EventReader.seek``."""
        for at, offset in positions.items():
            if at not in self._partitions:
                raise ServerError(f"{at} is not assigned to this reader ({self._partitions})")
            self._consumer.seek(ClientPartition(*at), offset)
            self._positions[at] = offset

    def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """See ``EventReader.poll``."""
        try:
            batches = self._consumer.poll(timeout_ms=timeout_ms, max_records=max_records)
        except OffsetOutOfRangeError as error:
            raise self._out_of_range() from error
        except KafkaError as error:
            raise explanation(self._endpoints, "read records", error) from error
        if not batches and self._is_tansu and self._beyond_the_end():
            raise self._out_of_range()
        taken: list[Record] = []
        for client, records in batches.items():
            topic, partition = client
            taken += as_records(topic, partition, records)
            self._positions[TopicPartition(topic, partition)] = records[-1].offset + 1
        return taken

    def _beyond_the_end(self) -> bool:
        """Say whether Tansu, which answers an impossible position with nothing, was asked one."""
        ends = {at: self._consumer.highwater(ClientPartition(*at)) for at in self._partitions}
        return any(end is not None and end < self._positions[at] for at, end in ends.items())

    def _out_of_range(self) -> ServerError:
        clients = [ClientPartition(*at) for at in self._partitions]
        earliest = self._consumer.beginning_offsets(clients)
        latest = self._consumer.end_offsets(clients)
        lost = [
            f"{at.topic}[{at.partition}] at {offset}, which has {earliest[ClientPartition(*at)]} "
            f"to {latest[ClientPartition(*at)]}"
            for at, offset in self._positions.items()
            if not earliest[ClientPartition(*at)] <= offset <= latest[ClientPartition(*at)]
        ]
        return ServerError(
            f"Kafka at {self._endpoints.kafka_bootstrap_servers}: wanted to go on reading "
            f"{'; '.join(lost) or 'where we stood'}: the records between were deleted by retention "
            "or the topic was made anew; fill the gap from the event log, then seek"
        )

    def positions(self) -> dict[TopicPartition, int]:
        """See ``EventReader.positions``."""
        return dict(self._positions)

    def committed(self) -> dict[TopicPartition, int]:
        """See ``EventReader.committed``."""
        with explained(self._endpoints, f"read the positions of group {self._group!r}"):
            found = {at: self._consumer.committed(ClientPartition(*at)) for at in self._partitions}
        return {at: offset for at, offset in found.items() if offset is not None}

    def lag(self) -> dict[TopicPartition, int]:
        """See ``EventReader.lag``."""
        clients = {at: ClientPartition(*at) for at in self._positions}
        with explained(self._endpoints, "read the end of the partitions"):
            ends = self._consumer.end_offsets(list(clients.values()))
        lags: dict[TopicPartition, int] = {}
        for at, client in clients.items():
            end = ends[client]
            if self._is_tansu:
                # Its end offset counts the last batch as one record; a fetch knows better.
                end = max(end, self._consumer.highwater(client) or 0)
            lags[at] = max(0, end - self._positions[at])
        return lags

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """See ``EventReader.bounds``; of any partitions, read or not."""
        clients = {at: ClientPartition(*at) for at in partitions}
        with explained(self._endpoints, "read the bounds of the partitions"):
            first = self._consumer.beginning_offsets(list(clients.values()))
            ends = self._consumer.end_offsets(list(clients.values()))
        if self._is_tansu:
            ends |= self._true_ends({at: ends[client] for at, client in clients.items()})
        return {at: (first[client], ends[client]) for at, client in clients.items()}

    def _true_ends(self, ends: dict[TopicPartition, int]) -> dict[ClientPartition, int]:
        """Read what Tansu's answer leaves out: it stops at the last batch's first record."""
        before = dict(self._positions)
        self.seek(ends)
        while self.poll(timeout_ms=300, max_records=10_000):
            pass
        found = {ClientPartition(*at): self._positions[at] for at in ends}
        self.seek(before)
        return found

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """See ``EventReader.commit``."""
        with explained(self._endpoints, f"store the positions of group {self._group!r}"):
            self._consumer.commit(
                {
                    ClientPartition(*at): OffsetAndMetadata(offset, "", -1)
                    for at, offset in positions.items()
                },
                timeout_ms=_COMMIT_TIMEOUT_MS,
            )

    def close(self) -> None:
        """See ``EventReader.close``."""
        self._consumer.close(autocommit=False)
