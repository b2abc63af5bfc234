"""What a run that nobody disturbs makes of the log, and what the store holds: to be compared."""

from __future__ import annotations

from recsys.endpoints import Endpoints
from recsys.errors import EventError
from recsys.events.codec import decode
from recsys.events.kafka import connect_reader
from recsys.events.log import Record
from recsys.events.schema import Event
from recsys.events.topics import Topics
from recsys.features.hashes import MemoryHashes
from recsys.features.key_layout import project_of_key
from recsys.features.plan import Plan
from recsys.features.redis_hashes import connect
from recsys.features.stream import FeatureStream
from recsys.settings import Settings
from tests.features.worlds import unversioned

Hashes = dict[bytes, dict[bytes, bytes]]


def all_records(settings: Settings, endpoints: Endpoints) -> list[Record]:
    """Give the whole log: items, then behaviour, each partition in order."""
    topics = Topics(namespace=settings.namespace)
    found: list[Record] = []
    for topic in (topics.items, topics.behaviour):
        reader = connect_reader(settings, endpoints, topics=[topic], group="quiet.run")
        try:
            while any(reader.lag().values()):
                found += reader.poll(timeout_ms=500, max_records=50_000)
        finally:
            reader.close()
    return found


def quiet_run(plan: Plan, topics: Topics, records: list[Record]) -> tuple[Hashes, list[Event]]:
    """Give the features of these records, made in memory in one go, and their events."""
    hashes = MemoryHashes()
    stream = FeatureStream(plan, hashes, topics)
    batch: list[tuple[Record, Event]] = []
    for record in records:
        try:
            batch.append((record, decode(record.value)))
        except EventError:
            continue
    writes, _ = stream.apply(batch)
    assert hashes.write(writes) == []
    return unversioned(hashes.content), [event for _, event in batch]


def stored_features(url: str, project: str) -> Hashes:
    """Give all hashes of entities, without the count of their writes."""
    with connect(url) as client:
        keys = [key for key in client.scan_iter(count=1000) if project_of_key(key) == project]
        return unversioned({key: client.hgetall(key) for key in keys})  # type: ignore[misc]
