"""How many bytes a user takes in Redis.

Usage::

    python -m benchmarks.features.state_bytes [--dataset online_retail] [--redis]

Applies a data set (``recsys data download``) to the declared views in memory and counts the bytes
of each user: of its own hash, of those with a category, and of both, by what they are of. They are
bytes of names and values. ``--redis`` also writes the hashes of a sample of users into a Redis of
its own and asks it with MEMORY USAGE, which is what one pays, under Redis's own limit of values in
listpacks and under that of ``recsys up``. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.features.online_repo import redis_server
from recsys.datasets.convert import iter_events
from recsys.datasets.load import load_mapping
from recsys.errors import RecsysError
from recsys.events.log import Record
from recsys.events.schema import Event
from recsys.events.topics import Topics
from recsys.features import current_plan
from recsys.features.batch import Int64s
from recsys.features.framing import payloads_of
from recsys.features.hashes import VERSION_FIELD, MemoryHashes
from recsys.features.key_layout import EntityKeys
from recsys.features.plan import Plan
from recsys.features.redis_hashes import connect
from recsys.features.stream import FeatureStream
from recsys.settings import Settings

PROJECT = "recsys"
"""As it is unless another namespace is set: it ends the name of each hash."""
_AT_ONCE = 20_000
_SAMPLE = 2_000
_LIMITS = (64, 1024)
"""``hash-max-listpack-value`` of a Redis that is told nothing, and of ``recsys up``."""


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
            report["redis_memory"] = {
                f"hash-max-listpack-value {limit}": in_redis(plan, hashes, limit)
                for limit in _LIMITS
            }
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
    users = users_of(plan, hashes)
    part_of: dict[bytes, str] = {VERSION_FIELD: "version"}
    for view in plan.views:
        part_of[view.state_field] = f"{view.name} state"
        part_of[view.timestamp_field] = f"{view.name} features"
        part_of |= {f.field_bytes: f"{view.name} features" for f in view.features}
    own = [tally_of_fields(user.own, part_of) for user in users]
    pairs = [tally_of_pairs(user.pairs) for user in users]
    of_own = _column([sum(tally.values()) for tally in own])
    of_pairs = _column([sum(tally.values()) for tally in pairs])
    names = _column([len(user.key) for user in users])
    with_pairs = [user for user in users if user.pairs]
    return {
        "users": len(users),
        "user_hash": percentiles(of_own),
        "parts": _by_part(own),
        "hashes_of_user_and_category": {
            "num": percentiles(_column([len(user.pairs) for user in with_pairs])),
            "bytes": percentiles(of_pairs[of_pairs > 0]),
            "parts": _by_part([tally for tally in pairs if tally]),
        },
        "whole": percentiles(of_own + of_pairs + names),
    }


class User(NamedTuple):
    """What lies in the store of one user."""

    key: bytes
    own: Mapping[bytes, bytes]
    pairs: dict[bytes, Mapping[bytes, bytes]]
    """Of hashes of the user and a category, by name."""


def users_of(plan: Plan, hashes: MemoryHashes) -> list[User]:
    """Give all users, each with the hashes that are its."""
    alone = EntityKeys(("user_id",), plan.project)
    both = EntityKeys(("category", "user_id"), plan.project)
    pairs: dict[str, dict[bytes, Mapping[bytes, bytes]]] = {}
    found: dict[str, tuple[bytes, Mapping[bytes, bytes]]] = {}
    for key, fields in hashes.content.items():
        if (values := alone.values_of(key)) is not None:
            found[values[0]] = (key, fields)
        elif (values := both.values_of(key)) is not None:
            pairs.setdefault(values[1], {})[key] = fields
    return [User(*own, pairs.get(user_id, {})) for user_id, own in found.items()]


def tally_of_fields(fields: Mapping[bytes, bytes], part_of: Mapping[bytes, str]) -> Counter[str]:
    """Give the bytes of names and values of one hash, by part."""
    tally: Counter[str] = Counter()
    for name, value in fields.items():
        tally[part_of[name]] += len(name) + len(value)
    return tally


def tally_of_pairs(pairs: Mapping[bytes, Mapping[bytes, bytes]]) -> Counter[str]:
    """Give the bytes of a user's hashes with a category, their names too, by what they are."""
    tally: Counter[str] = Counter()
    for key, fields in pairs.items():
        tally["names of hashes"] += len(key)
        for name, value in fields.items():
            if name == VERSION_FIELD:
                tally["version"] += len(name) + len(value)
                continue
            (tiles,) = payloads_of([value])
            tally["names of fields"] += len(name)
            tally["positions and newest time"] += len(value) - len(tiles)
            tally["tiles"] += len(tiles)
    return tally


def _by_part(tallies: Sequence[Counter[str]]) -> dict[str, dict[str, int]]:
    parts = sorted(set[str]().union(*tallies))
    return {part: percentiles(_column([tally[part] for tally in tallies])) for part in parts}


def _column(numbers: Sequence[int]) -> Int64s:
    return np.array(numbers, dtype=np.int64)


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


def in_redis(plan: Plan, hashes: MemoryHashes, limit: int) -> dict[str, object]:
    """Give what a Redis says that hashes of users take whose listpacks hold values up to a limit.

    ``limit`` is its ``hash-max-listpack-value``, bytes.
    """
    users = users_of(plan, hashes)[:_SAMPLE]
    with redis_server() as url, connect(url) as client, client.pipeline(transaction=False) as pipe:
        client.config_set("hash-max-listpack-value", limit)
        every = [{user.key: user.own} | user.pairs for user in users]
        for one in every:
            for key, fields in one.items():
                pipe.hset(key, mapping=fields)  # type: ignore[arg-type]
        pipe.execute()
        for one in every:
            for key in one:
                pipe.memory_usage(key, samples=0)
        taken = iter(pipe.execute())
        for user in users:
            pipe.object("encoding", user.key)  # type: ignore[no-untyped-call]
        compact = [answer == b"listpack" for answer in pipe.execute()]
    sizes = [[next(taken) for _ in one] for one in every]
    return {
        "user_hash": percentiles(_column([own for own, *_ in sizes])),
        "hashes_of_user_and_category": percentiles(_column([sum(pairs) for _, *pairs in sizes])),
        "whole": percentiles(_column([sum(each) for each in sizes])),
        "user_hashes_in_listpacks": round(sum(compact) / max(len(compact), 1), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
