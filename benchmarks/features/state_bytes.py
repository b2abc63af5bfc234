"""How many bytes a user takes in Redis.

Usage::

    python -m benchmarks.features.state_bytes [--dataset online_retail] [--redis]

Applies a data set (``recsys data download``) to the declared views in memory and counts the bytes
of the fields of each user's hash, by what they are of: names and values together. ``--redis`` also
writes the hashes of a sample of users into the Redis of ``recsys up`` and asks it with MEMORY USAGE
(they are removed afterwards): that is what one pays. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from recsys.datasets.convert import iter_events
from recsys.datasets.load import load_mapping
from recsys.endpoints import resolve
from recsys.errors import RecsysError
from recsys.events.log import Record
from recsys.events.schema import Event
from recsys.events.topics import Topics
from recsys.features import current_plan
from recsys.features.batch import Int64s
from recsys.features.hashes import VERSION_FIELD, MemoryHashes
from recsys.features.key_layout import EntityKeys
from recsys.features.plan import Plan
from recsys.features.redis_hashes import connect
from recsys.features.stream import FeatureStream
from recsys.settings import Settings

PROJECT = "state_bytes"
_AT_ONCE = 20_000
_SAMPLE = 2_000


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when done, 1 with one line when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features.state_bytes")
    parser.add_argument("--dataset", default="online_retail")
    parser.add_argument("--redis", action="store_true", help="ask a Redis, too")
    arguments = parser.parse_args(argv)
    try:
        settings = Settings()
        with tempfile.TemporaryDirectory() as folder:
            plan = current_plan.ensure(Path(folder), project=PROJECT)
        events = iter_events(load_mapping(arguments.dataset), settings.data_dir)
        hashes = applied(plan, events)
        report = {"benchmark": "state_bytes", "dataset": arguments.dataset} | measure(plan, hashes)
        if arguments.redis:
            report["redis_memory"] = in_redis(resolve(settings).require_redis(), plan, hashes)
    except RecsysError as error:
        sys.stderr.write(f"state_bytes: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def applied(plan: Plan, events: Iterator[Event]) -> MemoryHashes:
    """Give the hashes after all events."""
    topics, hashes = Topics(namespace=PROJECT), MemoryHashes()
    stream = FeatureStream(plan, hashes, topics)
    offsets: dict[str, int] = {}
    while batch := list(islice(events, _AT_ONCE)):
        records = []
        for event in batch:
            topic, key = topics.route(event)
            offset = offsets[topic] = offsets.get(topic, -1) + 1
            records.append((Record(topic, 0, offset, key, b"", event.event_time_ms), event))
        hashes.write(stream.apply(records)[0])
    return hashes


def measure(plan: Plan, hashes: MemoryHashes) -> dict[str, object]:
    """Give percentiles over users, by part and of all."""
    users = {key: fields for key, fields in hashes.content.items() if is_user(plan, key)}
    part_of: dict[bytes, str] = {VERSION_FIELD: "version"}
    for view in plan.views:
        part_of[view.state_field] = f"{view.name} state"
        part_of[view.timestamp_field] = f"{view.name} features"
        part_of |= {f.field_bytes: f"{view.name} features" for f in view.features}
    parts = sorted(set(part_of.values()))
    sizes = np.zeros((len(users), len(parts)), dtype=np.int64)
    for n, fields in enumerate(users.values()):
        for name, value in fields.items():
            sizes[n, parts.index(part_of.get(name, "version"))] += len(name) + len(value)
    pairs = pairs_of_users(plan, hashes)
    whole = sizes.sum(axis=1)
    found = {name: percentiles(sizes[:, n]) for n, name in enumerate(parts) if sizes[:, n].any()}
    return {
        "users": len(users),
        "user_hash": percentiles(whole),
        "parts": found,
        "hashes_of_user_and_category": {
            "num": percentiles(pairs[0]),
            "bytes": percentiles(pairs[1]),
        },
    }


def is_user(plan: Plan, key: bytes) -> bool:
    """Say whether a hash is that of a user alone."""
    user = EntityKeys(("user_id",), plan.project).of("")
    return key.startswith(user[: user.index(b"user_id") + len(b"user_id")])


def pairs_of_users(plan: Plan, hashes: MemoryHashes) -> tuple[Int64s, Int64s]:
    """Give, for each user, how many hashes with a category there are and their bytes."""
    both = EntityKeys(("category", "user_id"), plan.project).of("", "")
    head = both[: both.index(b"category") + len(b"category")]
    found: dict[bytes, list[int]] = {}
    users = [key for key in hashes.content if is_user(plan, key)]
    tails = {key[key.index(b"user_id") + len(b"user_id") :]: key for key in users}
    for key, fields in hashes.content.items():
        if not key.startswith(head):
            continue
        own = next(tail for tail in _tails(key) if tail in tails)
        one = found.setdefault(own, [0, 0])
        one[0] += 1
        one[1] += len(key) + size_of(fields)
    values = np.array(list(found.values()), dtype=np.int64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _tails(key: bytes) -> Iterator[bytes]:
    """Give what a key ends with, the longest first: one of them is what follows ``user_id``."""
    return (key[n:] for n in range(len(key)))


def size_of(fields: Mapping[bytes, bytes]) -> int:
    """Give the bytes of names and values."""
    return sum(len(name) + len(value) for name, value in fields.items())


def percentiles(sizes: Int64s) -> dict[str, int]:
    """Give the median, the 99th percentile and the greatest."""
    if not len(sizes):
        return {}
    return {
        "p50": int(np.percentile(sizes, 50)),
        "p99": int(np.percentile(sizes, 99)),
        "max": int(sizes.max()),
    }


def in_redis(url: str, plan: Plan, hashes: MemoryHashes) -> dict[str, int]:
    """Give what Redis says that hashes of users take."""
    keys = [key for key in hashes.content if is_user(plan, key)][:_SAMPLE]
    with connect(url) as client, client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hset(key, mapping=hashes.content[key])  # type: ignore[arg-type]
        pipeline.execute()
        for key in keys:
            pipeline.memory_usage(key, samples=0)
        found = np.array(pipeline.execute())
        client.unlink(*keys)
    return percentiles(found)


if __name__ == "__main__":
    sys.exit(main())
