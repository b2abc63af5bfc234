"""How far the stream worker is behind Kafka, in the online store and in the event log on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.endpoints import Endpoints
from recsys.events.kafka import latest_positions
from recsys.events.log import TopicPartition
from recsys.events.log_files import ends
from recsys.events.topics import Topics
from recsys.features.progress import StoredProgress
from recsys.features.redis_hashes import RedisHashes
from recsys.settings import Settings


@dataclass(frozen=True, kw_only=True)
class PartitionLag:
    """One partition. Offsets are those of the next record."""

    at: TopicPartition
    end: int
    """Of the Kafka log."""
    applied: int
    """First record whose features are not in the online store."""
    on_disk: int
    """First record that is not in the Parquet event log."""

    @property
    def num_unapplied(self) -> int:
        """Records whose features cannot be read yet."""
        return max(0, self.end - self.applied)

    @property
    def num_unwritten(self) -> int:
        """Records that training cannot see yet (they are safe in Kafka meanwhile)."""
        return max(0, self.end - self.on_disk)


def measure_lag(settings: Settings, endpoints: Endpoints) -> list[PartitionLag]:
    """Give the lag of every partition of the item and behaviour topics, in their order.

    Raises:
        ServerError: when Kafka or Redis does not answer.
    """
    topics = Topics(namespace=settings.namespace)
    ends = latest_positions(settings, endpoints, [topics.items, topics.behaviour])
    partitions = sorted(ends, key=lambda at: (at.topic, at.partition))
    store = RedisHashes(endpoints.require_redis())
    try:
        applied = _applied(store, topics, partitions)
    finally:
        store.close()
    on_disk = positions_on_disk(settings.event_log_dir, [topics.items, topics.behaviour])
    return [
        PartitionLag(
            at=at, end=ends[at], applied=applied.get(at, 0), on_disk=on_disk.get(at, 0)
        )
        for at in partitions
    ]  # fmt: skip


def _applied(
    store: RedisHashes, topics: Topics, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    progress = StoredProgress(store, topics.namespace)
    found = {at: progress.of(at) for at in partitions}
    return {at: position - base for at, (position, base) in found.items() if position is not None}


def positions_on_disk(event_log_dir: Path, topics: Sequence[str]) -> dict[TopicPartition, int]:
    """Give the next offset of every partition that has a finished flush, from the files alone."""
    positions: dict[TopicPartition, int] = {}
    for topic in topics:
        for partition, (offsets, commit) in ends(event_log_dir, topic).items():
            positions[TopicPartition(topic, partition)] = offsets.last + 1 - commit.base
    return positions
