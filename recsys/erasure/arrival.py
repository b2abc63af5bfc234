"""Whether what was sent has arrived: workers have applied it, and the event log has it on disk.

One look; how long to go on looking is the business of who waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsys.endpoints import Endpoints
from recsys.events.kafka import latest_positions
from recsys.events.log import TopicPartition
from recsys.events.partitioning import partition_of
from recsys.features.lag import measure_lag, positions_on_disk
from recsys.settings import Settings


def ends_of(
    settings: Settings, endpoints: Endpoints, topics: Sequence[str], key: bytes
) -> dict[TopicPartition, int]:
    """Give where the partition of each topic ends that records with ``key`` go to."""
    ends = latest_positions(settings, endpoints, topics)
    mine: dict[TopicPartition, int] = {}
    for name in topics:
        num_partitions = sum(at.topic == name for at in ends)
        at = TopicPartition(name, partition_of(key, num_partitions))
        mine[at] = ends[at]
    return mine


def not_past(
    settings: Settings, endpoints: Endpoints, ends: Mapping[TopicPartition, int]
) -> list[str]:
    """Give a line for each partition that workers or the event log on disk are not past yet."""
    late: list[str] = []
    lags = {lag.at: lag for lag in measure_lag(settings, endpoints)}
    topics = sorted({at.topic for at in ends})
    on_disk = positions_on_disk(settings.event_log_dir, topics)
    for at, end in ends.items():
        name = f"{at.topic}[{at.partition}]"
        if at in lags and lags[at].applied < end:
            late.append(f"{name} applied to {lags[at].applied} of {end}")
        if on_disk.get(at, 0) < end:
            late.append(f"{name} in the event log to {on_disk.get(at, 0)} of {end}")
    return late
