"""What the log had said of items, after a bundle was made, by the moment of an answer."""

from __future__ import annotations

from collections.abc import Mapping

from recsys.endpoints import Endpoints
from recsys.events.item_follower import ItemChange, item_changes
from recsys.events.log import TopicPartition
from recsys.events.topics import Topics
from recsys.settings import Settings

_BATCH = 2_000


def changes_until(
    settings: Settings, endpoints: Endpoints, positions: Mapping[str, int], until_ms: int
) -> list[ItemChange]:
    """Give the changes that the log received from ``positions`` on and by ``until_ms``.

    ``positions``: a bundle's ``Lineage.log_positions``. What retention deleted is missing.

    Raises:
        ServerError: when Kafka does not answer.
    """
    # Imported where it is needed: the client takes a fifth of a second to import.
    from recsys.events.kafka import connect_reader

    topic = Topics(namespace=settings.namespace).items
    reader = connect_reader(
        settings, endpoints, topics=[topic], group=f"{settings.namespace}.replay"
    )
    changes: list[ItemChange] = []
    try:
        begin: dict[TopicPartition, int] = {}
        left = 0
        for at, (first, end) in reader.bounds(reader.assignment()).items():
            begin[at] = min(max(first, positions.get(f"{at.topic}:{at.partition}", first)), end)
            left += end - begin[at]
        reader.seek(begin)
        while left > 0 and (records := reader.poll(timeout_ms=2_000, max_records=_BATCH)):
            left -= len(records)
            changes += item_changes([r for r in records if r.timestamp_ms <= until_ms])
    finally:
        reader.close()
    return changes
