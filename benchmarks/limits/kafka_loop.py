"""Events a second that come out of Kafka, by how little is done with them."""

from __future__ import annotations

import uuid
from typing import Any

from benchmarks.features.stream_rate import NUM_ITEMS, bare_seconds, fill, reader_seconds
from recsys.endpoints import resolve
from recsys.errors import RecsysError
from recsys.events.kafka import delete_topics, ensure_topics
from recsys.events.topics import Topics
from recsys.settings import Settings


def kafka_limits(num_events: int, rounds: int) -> dict[str, Any]:
    """Measure on the Kafka of the environment; say so where there is none.

    Rates are of this process's CPU time and of wall time, the best of the rounds, which take turns:
    kafka-python as it comes without decoding, the same and decoding, and our reader with decoding.
    """
    settings, endpoints = Settings(RECSYS_NAMESPACE=f"bench{uuid.uuid4().hex[:8]}"), None
    try:
        endpoints = resolve(Settings())
        topics = Topics(namespace=settings.namespace)
        ensure_topics(settings, endpoints, topics.all())
    except RecsysError as error:
        return {"not_run": f"no Kafka answers ({type(error).__name__}); `recsys up --only kafka`"}
    try:
        fill(settings, endpoints, topics, num_events, 10_000)
        took: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for name, spent in (
                ("consume", bare_seconds(settings, endpoints, topics, decoding=False)),
                ("consume and decode", bare_seconds(settings, endpoints, topics)),
                ("our reader, decoding", reader_seconds(settings, endpoints, topics)),
            ):
                took.setdefault(name, []).append(spent)
    finally:
        delete_topics(settings, endpoints, topics.all())
    count = num_events + NUM_ITEMS
    return {
        f"{name}: events/{unit}": round(count / min(spent[place] for spent in many))
        for name, many in took.items()
        for place, unit in enumerate(("CPU s", "s"))
    }
