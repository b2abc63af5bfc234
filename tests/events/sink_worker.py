"""Reads a made-up log into the event log, in a child that is killed.

It kills itself right before a given fsync, link or rename, or is killed from outside. The log is a
function of the offset, so that every life of the child sees the same one.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from recsys.events.codec import encode
from recsys.events.log import Record, TopicPartition
from recsys.events.schema import Event, InteractionEvent
from recsys.events.sink import EventSink, SinkConfig

TOPIC = "t.behaviour"
PARTITIONS = (0, 1)
DAY_MS = 86_400_000


def record_at(partition: int, offset: int) -> tuple[Record, Event | None]:
    """Events over six days, all mixed up; every 17th record is no event."""
    event = InteractionEvent(
        event_id=f"{partition}-{offset}",
        event_time_ms=1_726_000_000_000 + (offset * 7919 % 6) * DAY_MS + offset,
        user_id=f"u{partition}",
        item_id=f"i{offset % 50}",
        type="click",
    )
    bad = offset % 17 == 5
    value = b"bad" if bad else encode(event)
    return Record(TOPIC, partition, offset, b"k", value, 1_800_000_000_000), None if bad else event


def run(event_log_dir: Path, num_records: int, rng: random.Random) -> None:
    partitions = [TopicPartition(TOPIC, partition) for partition in PARTITIONS]
    config = SinkConfig(max_rows=rng.randrange(20, 200), chunk_rows=rng.randrange(1, 60))
    sink = EventSink(event_log_dir, partitions, config=config)
    positions = {at: max(0, sink.positions().get(at, 0) - rng.randrange(30)) for at in partitions}
    while any(position < num_records for position in positions.values()):
        for at, position in positions.items():
            end = min(num_records, position + rng.randrange(1, 90))
            sink.write(record_at(at.partition, offset) for offset in range(position, end))
            positions[at] = end
    sink.close()


def die_before_step(step: int) -> None:
    """Make the ``step``-th fsync, link or rename the one this process does not live to see."""
    taken = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call

    os.fsync = counting(os.fsync)
    os.link = counting(os.link)
    Path.replace = counting(Path.replace)  # type: ignore[method-assign]


def read_in(folder: Path, num_records: int, seed: int, step: int, begun: Connection) -> None:
    """Say that it began; die before the ``step``-th durable step (0: never)."""
    begun.send("begun")
    die_before_step(step)
    run(folder, num_records, random.Random(str(seed)))
