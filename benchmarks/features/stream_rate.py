"""How fast the stream worker is against a bare loop that only consumes and decodes.

Usage::

    python -m benchmarks.features.stream_rate [--events 100000] [--users 10000,100000] [--rounds 5]

Needs a Kafka and a Redis (``recsys up --only redis,kafka``, or addresses in the environment). Makes
topics and features in a namespace of its own and removes them. Both sides read the same topics in
turns, in this process; the rate is per second of this process's CPU time, which does not count what
the broker and the store do. ``bare`` is kafka-python as it comes, ``our_reader`` the reader of the
worker, which takes record batches apart itself. Shares are the least, the median and the greatest
of the rounds: a processor that changes its clock changes both sides, not by the same factor.
``--profile FILE`` writes a profile of one more turn of the worker. Prints a line of JSON for each
number of users.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from kafka import KafkaConsumer
from kafka import TopicPartition as ClientPartition

from recsys.clock import now_ms
from recsys.endpoints import Endpoints, resolve
from recsys.errors import ConfigurationError, RecsysError
from recsys.events.codec import decode, decode_all_logged, encode
from recsys.events.kafka import connect_reader, connect_writer, delete_topics, ensure_topics
from recsys.events.kafka.config import client_options
from recsys.events.log import FixedShare, TopicPartition
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent
from recsys.events.sink import EventSink
from recsys.events.topics import Topics
from recsys.features import collector, current_plan
from recsys.features.freshness import Freshness, views_of_kinds
from recsys.features.guarded_writer import GuardedWriter
from recsys.features.key_layout import project_of_key
from recsys.features.partition_sinks import PartitionSinks
from recsys.features.plan import Plan
from recsys.features.progress import progress_key
from recsys.features.redis_hashes import RedisHashes, RedisKeys, connect
from recsys.features.stream import FeatureStream
from recsys.features.worker import WorkerRun
from recsys.settings import Settings

NUM_ITEMS = 5_000
_AT_ONCE = 20_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features.stream_rate")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument(
        "--users", type=_numbers, default=[10_000], help="comma-separated; each is measured"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--views",
        default="",
        help="comma-separated; only these (default: all): user_activity,"
        "item_activity is a job of 20 features",
    )
    parser.add_argument("--profile", type=Path)
    arguments = parser.parse_args(argv)
    try:
        for num_users in arguments.users:
            settings = Settings(RECSYS_NAMESPACE=f"bench{uuid.uuid4().hex[:8]}")
            with tempfile.TemporaryDirectory() as folder:
                plan = current_plan.ensure(Path(folder), project=settings.namespace)
            if arguments.views:
                chosen = tuple(plan.view(name) for name in arguments.views.split(","))
                plan = msgspec.structs.replace(plan, views=chosen, services={})
            report = measure(settings, resolve(Settings()), plan, arguments, num_users)
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
    except RecsysError as error:
        sys.stderr.write(f"stream_rate: {error}\n")
        return 1
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def measure(
    settings: Settings,
    endpoints: Endpoints,
    plan: Plan,
    arguments: argparse.Namespace,
    num_users: int,
) -> dict[str, object]:
    """Fill the topics, then let both sides read them in turns."""
    topics = Topics(namespace=settings.namespace)
    ensure_topics(settings, endpoints, topics.all())
    rounds: list[dict[str, tuple[float, float]]] = []
    try:
        fill(settings, endpoints, topics, arguments.events, num_users)
        for _ in range(arguments.rounds):
            bare = bare_seconds(settings, endpoints, topics)
            reader = reader_seconds(settings, endpoints, topics)
            with tempfile.TemporaryDirectory() as folder:
                ours = worker_seconds(settings, endpoints, plan, Path(folder))
            half = worker_seconds(settings, endpoints, plan, None)
            rounds.append(
                {
                    "bare": bare,
                    "our_reader": reader,
                    "worker": ours,
                    "worker_without_event_log": half,
                }
            )
        if arguments.profile:
            profile = cProfile.Profile()
            with tempfile.TemporaryDirectory() as folder:
                profile.runcall(worker_seconds, settings, endpoints, plan, Path(folder))
            profile.dump_stats(arguments.profile)
    finally:
        delete_topics(settings, endpoints, topics.all())
    count = arguments.events + NUM_ITEMS
    cpu = {name: sorted(r[name][0] for r in rounds)[len(rounds) // 2] for name in rounds[0]}
    wall = {name: sorted(r[name][1] for r in rounds)[len(rounds) // 2] for name in rounds[0]}
    return {
        "benchmark": "stream_rate",
        "events": arguments.events,
        "users": num_users,
        "features": sum(len(view.features) for view in plan.views),
        "events_per_cpu_second": {name: round(count / value) for name, value in cpu.items()},
        "events_per_second": {name: round(count / value) for name, value in wall.items()},
        "share_of_bare": _shares(rounds, "worker"),
        "share_of_bare_without_event_log": _shares(rounds, "worker_without_event_log"),
        "share_of_our_reader": _shares(rounds, "worker", of="our_reader"),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


def _shares(
    rounds: list[dict[str, tuple[float, float]]], name: str, *, of: str = "bare"
) -> list[float]:
    """Give the least, the median and the greatest share of a rate, of CPU time, by round."""
    shares = sorted(r[of][0] / r[name][0] for r in rounds)
    return [round(shares[n], 3) for n in (0, len(shares) // 2, -1)]


def fill(
    settings: Settings,
    endpoints: Endpoints,
    topics: Topics,
    num_events: int,
    num_users: int,
    *,
    impressions: bool = True,
) -> None:
    """Send items and behaviour: a fifth of the events are impressions of five items, if wanted."""
    rng = np.random.default_rng(1)
    start_ms = now_ms() - 3_600_000
    events: list[Event] = [
        ItemEvent(
            event_id=f"item-{k}", event_time_ms=start_ms, item_id=f"i{k}", category=f"c{k % 40}"
        )
        for k in range(NUM_ITEMS)
    ]
    users = rng.integers(0, num_users, num_events).tolist()
    items = (rng.zipf(1.3, num_events) % NUM_ITEMS).tolist()
    for n, (user, item) in enumerate(zip(users, items, strict=True)):
        at_ms = start_ms + n * 3_600_000 // num_events
        if impressions and n % 5 == 0:
            shown = [f"i{(item + k) % NUM_ITEMS}" for k in range(5)]
            events.append(
                ImpressionEvent(
                    event_id=f"e{n}", event_time_ms=at_ms, user_id=f"u{user}", request_id=f"r{n}",
                    items=shown,
                )
            )  # fmt: skip
        else:
            events.append(
                InteractionEvent(
                    event_id=f"e{n}", event_time_ms=at_ms, user_id=f"u{user}", item_id=f"i{item}",
                    type="click" if n % 7 else "purchase", value=1.0 + n % 90,
                )
            )  # fmt: skip
    writer = connect_writer(settings, endpoints)
    for event in events:
        topic, key = topics.route(event)
        writer.append(topic, key, encode(event))
    writer.close()


def bare_seconds(
    settings: Settings, endpoints: Endpoints, topics: Topics, *, decoding: bool = True
) -> tuple[float, float]:
    """Give CPU and wall seconds of consuming everything with kafka-python and decoding it."""
    options = client_options(settings, endpoints, timeout_ms=10_000)
    consumer = KafkaConsumer(**options, enable_auto_commit=False, metrics_enabled=False)
    every = [
        ClientPartition(topic, number)
        for topic in (topics.items, topics.behaviour)
        for number in consumer.partitions_for_topic(topic)
    ]
    consumer.assign(every)
    consumer.seek_to_beginning(*every)
    left = sum(consumer.end_offsets(every).values())
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    while left > 0:
        for records in consumer.poll(timeout_ms=500, max_records=_AT_ONCE).values():
            if decoding:
                for record in records:
                    decode(record.value)
            left -= len(records)
    spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
    consumer.close()
    return spent


def reader_seconds(settings: Settings, endpoints: Endpoints, topics: Topics) -> tuple[float, float]:
    """Give CPU and wall seconds of the same with the worker's reader and decoder."""
    reader = connect_reader(
        settings, endpoints, topics=[topics.items, topics.behaviour], group=uuid.uuid4().hex
    )
    left = sum(reader.lag().values())
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    while left > 0:
        records = reader.poll(timeout_ms=500, max_records=_AT_ONCE)
        decode_all_logged([record.value for record in records])
        left -= len(records)
    spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
    reader.close()
    return spent


def worker_seconds(
    settings: Settings, endpoints: Endpoints, plan: Plan, event_log: Path | None
) -> tuple[float, float]:
    """Give CPU and wall seconds of the worker over everything, from an empty store."""
    topics = Topics(namespace=settings.namespace)
    url = endpoints.require_redis()
    remove_features(url, settings.namespace)
    with contextlib.ExitStack() as stack:
        group = uuid.uuid4().hex
        items = connect_reader(settings, endpoints, topics=[topics.items], group=group)
        behaviour = connect_reader(settings, endpoints, topics=[topics.behaviour], group=group)
        letters = connect_writer(settings, endpoints)
        store = RedisHashes(url)
        writer = GuardedWriter(url, settings.namespace)
        client = connect(url)
        stack.callback(client.close)
        for part in (items, behaviour, letters, store, writer):
            stack.callback(part.close)

        def open_sink(at: TopicPartition) -> EventSink:
            if event_log is None:
                raise ConfigurationError("without an event log")
            return EventSink(event_log, [at])

        sinks = PartitionSinks(open_sink, retry_s=1e9)
        stream = FeatureStream(plan, store, topics)
        writer.found(stream.layout)
        run = WorkerRun(
            stream=stream,
            store=store,
            writer=writer,
            keys=RedisKeys(client),
            items=items,
            behaviour=FixedShare(behaviour),
            dead_letters=letters,
            sinks=sinks,
            topics=topics,
            clock=now_ms,
            freshness=Freshness(views_of_kinds(plan)),
        )
        collector.calm()
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        run.start()
        while run.lag():
            run.step()
        run.close()
        spent = time.process_time() - cpu_s, time.perf_counter() - wall_s
    remove_features(url, settings.namespace)
    return spent


def remove_features(url: str, namespace: str) -> None:
    """Remove all hashes of entities of a namespace, and its progress."""
    client = connect(url)
    keys = [key for key in client.scan_iter(count=1000) if project_of_key(key) == namespace]
    for start in range(0, len(keys), 1000):
        client.unlink(*keys[start : start + 1000])
    client.delete(progress_key(namespace))
    client.close()


if __name__ == "__main__":
    sys.exit(main())
