"""``python -m benchmarks.features.online_read``: features for ranking, Feast and ours in turn.

One user and 500 items of 20 floats each, random ones each time, as 20 scalar features and as one
vector; and one user alone beside a PING. All ways are timed in turn in one process. ``raw`` sends
the very bytes our reader sends and takes the replies apart with hiredis, and does nothing more.
``server`` is Feast's feature server over HTTP (``feast_server.py``), answers decoded by msgspec;
CPU time is that of this process, so its own is not in it.
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

import hiredis
import numpy as np
import redis

from benchmarks.features.feast_server import FeastClient, feast_server
from benchmarks.features.interleaved import difference, ratio, summary, surroundings, time_in_turn
from benchmarks.features.online_repo import (
    FLOATS,
    NUM_FLOATS,
    NUM_ITEMS,
    NUM_USERS,
    free_port,
    run,
)
from benchmarks.machine import commit, processor
from recsys.features.column_writer import ColumnWriter
from recsys.features.feast_declarations import plan_of_store
from recsys.features.plan import Plan
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import hmgets
from recsys.features.row_groups import make_group
from recsys.features.row_packer import RowPacker
from recsys.features.service_reader import EntityRequest, ServiceReader

CANDIDATES = 500
_RATIOS = (
    ("feast_scalar", "ours_vector"),
    ("feast_scalar", "ours_scalar"),
    ("feast_vector", "ours_vector"),
    ("server_scalar", "ours_vector"),
    ("server_scalar", "ours_scalar"),
    ("server_vector", "ours_vector"),
    ("server_scalar", "feast_scalar"),
    ("feast_scalar", "plugin_scalar"),
    ("ours_vector", "raw_vector"),
    ("ours_scalar", "raw_scalar"),
)


def main(argv: list[str] | None = None) -> int:
    """Measure; print one JSON result."""
    return run("online_read", argv, _beside_the_server, rounds=120)


def _beside_the_server(theirs: Any, ours: Any, url: str, rounds: int, seed: int) -> dict[str, Any]:
    with feast_server(Path(theirs.config.repo_path), url, free_port()) as server:
        return _measure(theirs, ours, server, url, rounds, seed)


def _fill(plan: Plan, url: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    client = RedisClient(url)
    for entity, count in (("item", NUM_ITEMS), ("user", NUM_USERS)):
        values = rng.standard_normal((count, NUM_FLOATS), dtype=np.float32)
        ids = np.arange(count)
        # Times as a stream leaves them: of any microsecond.
        times = time.time_ns() // 1000 - rng.integers(0, 86_400_000_000, count)
        for view, columns in (
            (f"{entity}_scalar", dict(zip(FLOATS, values.T, strict=True))),
            (f"{entity}_vec", {"vec": values}),
        ):
            packer = RowPacker(plan.view(view), plan.project)
            ColumnWriter(client, packer).write({f"{entity}_id": ids}, columns, times)
    client.close()


class _Raw:
    """One socket: what fetching the bytes costs by itself."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("redis://").partition("/")[0].partition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 18)

    def exchange(self, data: bytes, count: int) -> list[Any]:
        reader, buffer = hiredis.Reader(notEnoughData=_Raw), self._buffer
        self._socket.sendall(data)
        replies: list[Any] = []
        while len(replies) < count:
            reader.feed(buffer, 0, self._socket.recv_into(buffer))  # type: ignore[arg-type]
            while (reply := reader.gets()) is not _Raw:
                replies.append(reply)
        return replies


def _measure(
    theirs: Any, ours: Any, server: FeastClient, url: str, rounds: int, seed: int
) -> dict[str, Any]:
    plan = plan_of_store(ours)
    _fill(plan, url, seed)
    rng = np.random.default_rng(seed)
    reader, raw, client = ServiceReader(plan, url), _Raw(url), redis.Redis.from_url(url)
    groups = {
        (layout, entity): make_group(
            plan.project,
            [(plan.view(f"{entity}_{short}"), plan.view(f"{entity}_{short}").features)],
        )
        for layout, short in (("scalar", "scalar"), ("vector", "vec"))
        for entity in ("item", "user")
    }
    drawn = {
        "user": int(rng.integers(NUM_USERS)),
        "items": rng.choice(NUM_ITEMS, CANDIDATES, replace=False),
    }

    def draw() -> None:
        drawn["user"] = int(rng.integers(NUM_USERS))
        drawn["items"] = rng.choice(NUM_ITEMS, CANDIDATES, replace=False)

    services = {n: theirs.get_feature_service(n) for n in ("scalar", "vector")}
    lists = {
        (layout, entity): [f for f in plan.services[layout] if f.startswith(f"{entity}_")]
        for layout in services
        for entity in ("item", "user")
    }

    def feast(store: Any, layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
        user = store.get_online_features(lists[layout, "user"], {"user_id": [drawn["user"]]})
        items = store.get_online_features(
            lists[layout, "item"], {"item_id": drawn["items"].tolist()}
        )
        return user.to_dict(), items.to_dict()

    def served(layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
        user = server.get_online_features(lists[layout, "user"], {"user_id": [drawn["user"]]})
        items = server.get_online_features(
            lists[layout, "item"], {"item_id": drawn["items"].tolist()}
        )
        return user, items

    def read(layout: str) -> Any:
        return reader.read(
            [
                EntityRequest(layout, {"user_id": [drawn["user"]]}),
                EntityRequest(layout, {"item_id": drawn["items"]}),
            ],
            now_us=time.time_ns() // 1000,
        )

    def commands(layout: str) -> list[bytes]:
        user, item = groups[layout, "user"], groups[layout, "item"]
        return [
            *hmgets(user.keys.build({"user_id": [drawn["user"]]}), user.fields),
            *hmgets(item.keys.build({"item_id": drawn["items"]}), item.fields),
        ]

    def pipeline(layout: str) -> Any:
        user, item = groups[layout, "user"], groups[layout, "item"]
        with client.pipeline(transaction=False) as pipe:
            for key in user.keys.build({"user_id": [drawn["user"]]}):
                pipe.hmget(key, user.fields)
            for key in item.keys.build({"item_id": drawn["items"]}):
                pipe.hmget(key, item.fields)
            return pipe.execute()

    packed = {layout: b"".join(commands(layout)) for layout in services}

    def fetch(layout: str) -> Any:
        return raw.exchange(packed[layout], CANDIDATES + 1)

    _check(feast(theirs, "scalar"), read("scalar"), feast(theirs, "vector"), read("vector"))
    _check(served("scalar"), read("scalar"), served("vector"), read("vector"))
    ways = {}
    for layout in services:
        ways[f"feast_{layout}"] = lambda layout=layout: feast(theirs, layout)
        ways[f"server_{layout}"] = lambda layout=layout: served(layout)
        ways[f"plugin_{layout}"] = lambda layout=layout: feast(ours, layout)
        ways[f"ours_{layout}"] = lambda layout=layout: read(layout)
        ways[f"raw_{layout}"] = lambda layout=layout: fetch(layout)
        ways[f"pipeline_{layout}"] = lambda layout=layout: pipeline(layout)
    draw()
    taken = time_in_turn(ways, rounds=rounds, seed=seed)
    alone = {
        "ping": lambda: raw.exchange(b"*1\r\n$4\r\nPING\r\n", 1),
        "redis_py_ping": client.ping,
        "ours_vector": lambda: reader.read(
            [EntityRequest("vector", {"user_id": [drawn["user"]]})], now_us=time.time_ns() // 1000
        ),
        "ours_scalar": lambda: reader.read(
            [EntityRequest("scalar", {"user_id": [drawn["user"]]})], now_us=time.time_ns() // 1000
        ),
        "feast_scalar": lambda: theirs.get_online_features(
            lists["scalar", "user"], {"user_id": [drawn["user"]]}
        ).to_dict(),
        "server_scalar": lambda: server.get_online_features(
            lists["scalar", "user"], {"user_id": [drawn["user"]]}
        ),
    }
    lone = time_in_turn(alone, rounds=rounds * 10, seed=seed)
    wall = {name: times["wall"] for name, times in taken.items()}
    over = {
        name: difference(lone[name]["wall"], lone["ping"]["wall"], seed=seed)
        for name in alone
        if name != "ping"
    }
    reader.close()
    client.close()
    return {
        "what": f"1 user + {CANDIDATES} items x {NUM_FLOATS} floats",
        **surroundings(),
        "commit": commit(),
        "processor": processor(),
        "times": summary(taken),
        "ratios": {
            f"{slow} / {fast}": ratio(wall[slow], wall[fast], seed=seed) for slow, fast in _RATIOS
        },
        "alone_ratios": {
            f"{name} / ours_scalar": ratio(
                lone[name]["wall"], lone["ours_scalar"]["wall"], seed=seed
            )
            for name in ("feast_scalar", "server_scalar")
        },
        "alone": summary(lone),
        "alone_over_ping_us": over,
        "bars": {
            "feast_scalar / ours_vector": ">= 30",
            "feast_scalar / ours_scalar": ">= 13",
            "ours / raw": "<= 1.5",
            "alone ours_vector over ping": "<= 50 us",
        },
    }


def _check(scalar: Any, ours_scalar: Any, vector: Any, ours_vector: Any) -> None:
    """All ways give the same floats."""
    for place in (0, 1):
        wanted = np.array([scalar[place][name] for name in FLOATS], dtype=np.float32).T
        name = ("user_vec:vec", "item_vec:vec")[place]
        for found in (
            ours_scalar[place].floats,
            np.array(vector[place]["vec"], dtype=np.float32),
            ours_vector[place].column(name).values,
        ):
            np.testing.assert_array_equal(found, wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
