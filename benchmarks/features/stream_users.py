"""What an event costs the stream worker by how many users there are, and whose the cost is.

Usage::

    python -m benchmarks.features.stream_users [--batches 5] [--rounds 3] [--many 1000000]

Gives batches of 20,000 events, already decoded, to the worker's stream and writer over a Redis of
its own, views of 20 features (``user_activity``, ``item_activity``), and counts CPU time of this
process and of the server, in microseconds an event. Users come in four ways:

- ``drawn``: 10,000 users at random, all remembered. Two or three events of a batch share a write;
- ``in_turn``: 20,000 users one after the other, all remembered. No two events of a batch share one;
- ``new``: users one after the other who are met for the first time, in an empty store;
- ``forgotten``: the same out of many who are all stored, and none is remembered.

All events lie in the same tiles, and a user either acts or is shown something: states are of one
size whatever was told before. So ``in_turn`` beside ``drawn`` is what sharing fewer writes costs,
the others beside ``in_turn`` are what users cost who are not remembered. ``bare`` are the same
hashes read and set by pipelined commands made beforehand, at random among few and among many.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import numpy as np
import redis

from benchmarks.features.online_repo import redis_server
from benchmarks.features.stream_rate import NUM_ITEMS
from recsys.events.log import Record
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent
from recsys.events.topics import Topics
from recsys.features import collector, current_plan
from recsys.features.batch import Int64s
from recsys.features.guarded_writer import GuardedWriter
from recsys.features.hashes import Found, Wanted
from recsys.features.key_layout import EntityKeys
from recsys.features.plan import Plan
from recsys.features.redis.commands import pack
from recsys.features.redis_hashes import RedisHashes, connect
from recsys.features.runs import runs_of
from recsys.features.stream import FeatureStream

_AT_ONCE = 20_000
_FEW = 10_000
_PROJECT = "stream_users"
_VIEWS = ("user_activity", "item_activity")
_START_MS = 1_760_000_000_000
_PIPELINED = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features.stream_users")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=1_000_000)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        plan = current_plan.ensure(Path(folder), project=_PROJECT)
    plan = msgspec.structs.replace(
        plan, views=tuple(plan.view(name) for name in _VIEWS), services={}
    )
    collector.calm()
    with redis_server() as few_url, redis_server() as many_url:
        few, many = House(plan, few_url), House(plan, many_url)
        few.tell(np.arange(2 * _AT_ONCE))
        many.fill(arguments.many)
        ways: list[tuple[str, Callable[[], dict[str, float]]]] = [
            ("drawn", lambda: few.drawn(arguments.batches, _FEW)),
            ("in_turn", lambda: few.in_turn(arguments.batches)),
            ("new", lambda: few.new(arguments.batches)),
            ("forgotten", lambda: many.forgotten(arguments.batches, arguments.many)),
            ("bare_few", lambda: few.bare(_FEW)),
            ("bare_many", lambda: many.bare(arguments.many)),
        ]
        rounds: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            for name, way in ways:
                rounds.setdefault(name, []).append(way())
    found = {
        name: {part: round(statistics.median(r[part] for r in some), 3) for part in some[0]}
        for name, some in rounds.items()
    }
    report = {"benchmark": "stream_users", "many": arguments.many, "microseconds": found}
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


class Spent(NamedTuple):
    """CPU seconds."""

    ours: float
    server: float


class House:
    """A worker's stream and writer, and the Redis they write to."""

    def __init__(self, plan: Plan, url: str) -> None:
        self._plan, self._url = plan, url
        self._topics = Topics(namespace=_PROJECT)
        self._client = connect(url)
        self._rng = np.random.default_rng(1)
        self._offset = 0
        self._next_new = 1 << 40
        self._next_stored = 0
        self._store = _TimedHashes(url, self._client)
        self._writer = GuardedWriter(url, _PROJECT)
        self._stream = FeatureStream(plan, self._store, self._topics)
        self._writer.found(self._stream.layout)

    def drawn(self, batches: int, num_users: int) -> dict[str, float]:
        """Draw users at random."""
        self.tell(np.arange(num_users))  # all are remembered
        return self._measured([self._rng.integers(0, num_users, _AT_ONCE) for _ in range(batches)])

    def in_turn(self, batches: int) -> dict[str, float]:
        """Take the same users again and again, each once in a batch."""
        self.tell(np.arange(_AT_ONCE))
        return self._measured([self._rng.permutation(_AT_ONCE) for _ in range(batches)])

    def new(self, batches: int) -> dict[str, float]:
        """Take users never met before; they are removed afterwards."""
        first, self._next_new = self._next_new, self._next_new + batches * _AT_ONCE
        users = [first + n * _AT_ONCE + np.arange(_AT_ONCE) for n in range(batches)]
        self._store.read([(b"nobody", (b"~",))] * 2_000)  # as a worker that meets new users only
        found = self._measured(users)
        keys = EntityKeys(("user_id",), _PROJECT).of_all(_ids(np.concatenate(users)))
        for at in range(0, len(keys), 1_000):
            self._client.unlink(*keys[at : at + 1_000])
        self._stream.forget()
        return found

    def forgotten(self, batches: int, num_users: int) -> dict[str, float]:
        """Take stored users, none of whom is remembered, in no order of theirs."""
        step = 7_919  # a prime: neighbours in a batch are none in the store
        places = (self._next_stored + np.arange(batches * _AT_ONCE)) * step % num_users
        self._next_stored += batches * _AT_ONCE
        self._stream.forget()
        self.tell(places[:0])
        return self._measured(np.split(places, batches))

    def fill(self, num_users: int) -> None:
        """Store that many users."""
        for first in range(0, num_users, _AT_ONCE):
            self.tell(np.arange(first, min(first + _AT_ONCE, num_users)))

    def tell(self, users: Int64s) -> None:
        """Tell the store an event of each."""
        for first in range(0, len(users), _AT_ONCE):
            columns, _ = self._stream.columns(runs_of(self._batch(users[first : first + _AT_ONCE])))
            self._writer.write(self._stream.apply_columns(columns))

    def bare(self, num_users: int) -> dict[str, float]:
        """Set and read fields of a batch of users by commands made beforehand."""
        keys = EntityKeys(("user_id",), _PROJECT).of_all(
            _ids(self._rng.choice(num_users, min(_AT_ONCE, num_users), replace=False))
        )
        field = self._plan.view("user_activity").state_field
        state = self._client.hget(keys[0], field)  # type: ignore[arg-type]
        assert isinstance(state, bytes)
        found: dict[str, float] = {}
        for name, commands in (
            ("hmget", [pack(b"HMGET", key, b"~w", field) for key in keys]),
            ("hset", [pack(b"HSET", key, b"~w", b"2", field, state) for key in keys]),
        ):
            spent = self._bare(commands)
            found[f"{name}, client"] = spent.ours / len(keys) * 1e6
            found[f"{name}, server"] = spent.server / len(keys) * 1e6
        return found

    def _bare(self, commands: Sequence[bytes]) -> Spent:
        address = urlsplit(self._url)
        buffer = bytearray(1 << 20)
        pieces = [
            b"".join(commands[at : at + _PIPELINED]) + b"*1\r\n$4\r\nPING\r\n"
            for at in range(0, len(commands), _PIPELINED)
        ]
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as server:
            before = self._spent()
            for piece in pieces:
                server.sendall(piece)
                got = 0
                while not buffer[:got].endswith(b"+PONG\r\n"):
                    got += server.recv_into(memoryview(buffer)[got:])
            return self._since(before)

    def _measured(self, users: Sequence[Int64s]) -> dict[str, float]:
        batches = [list(self._batch(some)) for some in users]
        parts: dict[str, float] = dict.fromkeys(
            ("columns", "features", "reading", "writing", "server reading", "server writing"), 0.0
        )
        hashes = 0
        for batch in batches:
            begin = time.process_time()
            columns, _ = self._stream.columns(runs_of(batch))
            parts["columns"] += time.process_time() - begin
            self._store.spent = Spent(0.0, 0.0)
            begin = time.process_time()
            writes = self._stream.apply_columns(columns)
            whole, read = time.process_time() - begin, self._store.spent
            parts["reading"] += read.ours
            parts["server reading"] += read.server
            parts["features"] += whole - read.ours
            before = self._spent()
            self._writer.write(writes)
            spent = self._since(before)
            parts["writing"] += spent.ours
            parts["server writing"] += spent.server
            hashes += len(writes)
        events = sum(map(len, batches))
        found = {name: seconds / events * 1e6 for name, seconds in parts.items()}
        found["worker"] = sum(found[n] for n in ("columns", "features", "reading", "writing"))
        return found | {"hashes an event": hashes / events}

    def _batch(self, users: Int64s) -> Iterator[tuple[Record, Event]]:
        items = self._rng.zipf(1.3, len(users)) % NUM_ITEMS
        shows = users % 5 == 0
        for user_id, shown_some, item in zip(_ids(users), shows, items.tolist(), strict=True):
            self._offset = n = self._offset + 1
            at_ms, event_id = _START_MS + n // 100, f"e{n}"
            event: Event
            if shown_some:
                shown = [f"i{(item + k) % NUM_ITEMS}" for k in range(5)]
                event = ImpressionEvent(
                    event_id=event_id, event_time_ms=at_ms, user_id=user_id, request_id=event_id,
                    items=shown,
                )  # fmt: skip
            else:
                event = InteractionEvent(
                    event_id=event_id, event_time_ms=at_ms, user_id=user_id, item_id=f"i{item}",
                    type="click", value=1.0 + n % 90,
                )  # fmt: skip
            topic, key = self._topics.route(event)
            yield Record(topic, 0, n, key, b"", at_ms), event

    def _spent(self) -> Spent:
        return Spent(time.process_time(), _server_s(self._client))

    def _since(self, before: Spent) -> Spent:
        ours = time.process_time() - before.ours
        return Spent(ours, _server_s(self._client) - before.server)


class _TimedHashes(RedisHashes):
    """Counts what reading takes."""

    def __init__(self, url: str, client: redis.Redis) -> None:
        super().__init__(url)
        self._info = client
        self.spent = Spent(0.0, 0.0)

    def read(self, wanted: Wanted) -> Found:
        server = _server_s(self._info)
        begin = time.process_time()
        found = super().read(wanted)
        ours = time.process_time() - begin
        server = _server_s(self._info) - server
        self.spent = Spent(self.spent.ours + ours, self.spent.server + server)
        return found


def _server_s(client: redis.Redis) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])  # type: ignore[index]


def _ids(users: Int64s) -> list[str]:
    return [f"u{user}" for user in users.tolist()]


if __name__ == "__main__":
    sys.exit(main())
