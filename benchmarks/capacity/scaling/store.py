"""What users take in Redis: bytes by how many there are and by how much each has done, and reads.

The hashes are those the stream makes: made-up behaviour of a few hundred users is applied to the
declared views, and each further user gets the bytes of one of them under an id of its own, of the
same length. Then Redis is asked what it uses, and users drawn at random are read and decoded as the
API does it.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from benchmarks.capacity.scaling.points import Task
from benchmarks.capacity.scaling.servers import running
from benchmarks.features.state_bytes import applied, size_of
from benchmarks.loadtest.system import System
from benchmarks.loadtest.untrained_bundle import NUM_CATEGORIES, category_of, item_id
from recsys.clock import DAY_MS, now_ms
from recsys.data.vocabulary import Vocabulary
from recsys.errors import ServerError
from recsys.events.schema import Event, ImpressionEvent, InteractionEvent, ItemEvent
from recsys.features import current_plan
from recsys.features.hashes import VERSION_FIELD
from recsys.features.online import OnlineReader
from recsys.features.plan import Plan
from recsys.features.redis.commands import pack
from recsys.features.redis_hashes import connect

USERS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
BASE_USERS = 30_000
EVENTS = (5, 15, 30, 60, 120)
"""Events of each user over four weeks."""
BASE_EVENTS = 30
_PROJECT = "store_study"
_TEMPLATES = 200
NUM_ITEMS = 2_000
_CHUNK = 4 << 20
_READS = 400
_SAFE_PART = 0.7
"""Of the free memory may be used: what is full would be killed, or everybody beside it."""
_BYTES_GUESS = 4_500
"""Of a user with ``BASE_EVENTS``, a little more than was measured."""


@contextmanager
def study(folder: Path) -> Iterator[list[Task]]:
    """Give the points, with a Redis that is up meanwhile."""
    plan = current_plan.ensure(folder, project=_PROJECT)
    with running(folder, "redis") as system:
        url = system.endpoints.require_redis()
        with connect(url) as client:  # a file of all that is written is not what is measured
            client.config_set("appendonly", "no")
        free = psutil.virtual_memory().available
        made = []
        for users, events in _points():
            wanted = users * _BYTES_GUESS * events / BASE_EVENTS
            if wanted > _SAFE_PART * free:
                sys.stderr.write(
                    f"store: {users} users are left out: they want {wanted / 2**30:.1f} GiB, found "
                    f"{free / 2**30:.1f} free, of which {_SAFE_PART:.0%} may be used\n"
                )
                continue
            settings = {"users": users, "events": events}
            name = f"users={users} events={events}"
            made.append(Task(name=name, settings=settings, run=_run(system, plan, users, events)))
        yield made


def _points() -> list[tuple[int, int]]:
    found = [(users, BASE_EVENTS) for users in USERS]
    return found + [(BASE_USERS, events) for events in EVENTS if events != BASE_EVENTS]


def _run(system: System, plan: Plan, users: int, events: int) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        url = system.endpoints.require_redis()
        templates = _templates(plan, events)
        with connect(url, timeout_s=60.0) as client:
            client.execute_command("FLUSHALL", "SYNC")
            empty, empty_keys = client.info("memory")["used_memory"], client.dbsize()
            _write(url, templates, users)
            used, keys = client.info("memory")["used_memory"], client.dbsize()
        found = _read(system, plan, url, users)
        with connect(url, timeout_s=60.0) as client:
            client.execute_command("FLUSHALL", "SYNC")
        return {
            "bytes_a_user": round((used - empty) / users, 1),
            "hashes_a_user": round((keys - empty_keys) / users, 3),
            "payload_bytes_a_user": round(sum(map(len, templates)) / len(templates), 1),
            **found,
        }

    return run


def _user_id(number: int) -> str:
    return f"u{number:09d}"


def _template_id(number: int) -> str:
    return f"t{number:09d}"


def _templates(plan: Plan, events: int) -> list[bytes]:
    """Give the commands that write each template user."""
    hashes = applied(plan, _events(events))
    commands: list[list[bytes]] = [[] for _ in range(_TEMPLATES)]
    for key, fields in hashes.content.items():
        at = key.find(b"t000000")
        if at < 0:  # an item's
            continue
        number = int(key[at + 1 : at + 10])
        parts = [part for pair in fields.items() for part in pair]
        commands[number].append(bytes(pack(b"HSET", key, *parts, VERSION_FIELD, b"1")))
    return [b"".join(some) for some in commands]


def item_hash_bytes(plan: Plan) -> int:
    """Give the mean bytes of an item's hash, its name among them, after the templates' behaviour.

    Names and values as the stream writes them; what Redis adds to a hash is small beside that, as
    it is of users' (``bytes_a_user`` beside ``payload_bytes_a_user``).
    """
    content = applied(plan, _events(BASE_EVENTS)).content
    sizes = [len(key) + size_of(fields) for key, fields in content.items() if b"t000000" not in key]
    return round(sum(sizes) / len(sizes))


def _events(events: int) -> Iterator[Event]:
    """Give the behaviour of the templates, in order of time: a fifth are impressions."""
    rng = np.random.default_rng(events)
    end = now_ms() - 60_000
    start = end - 28 * DAY_MS
    for row in range(1, NUM_ITEMS + 1):
        yield ItemEvent(
            event_id=f"i{row}", event_time_ms=start, item_id=item_id(row),
            category=category_of(row), price=float(row % 90), title=f"Item {row}",
        )  # fmt: skip
    count = _TEMPLATES * events
    moments = np.sort(rng.integers(start, end, count)).tolist()
    items = (rng.zipf(1.2, count) % NUM_ITEMS + 1).tolist()
    users = rng.permutation(np.repeat(np.arange(_TEMPLATES), events)).tolist()
    for n, (user, item, at_ms) in enumerate(zip(users, items, moments, strict=True)):
        who = _template_id(user)
        if n % 5 == 0:
            shown = [item_id((item + step) % NUM_ITEMS + 1) for step in range(5)]
            yield ImpressionEvent(
                event_id=f"e{n}", event_time_ms=at_ms, user_id=who, request_id=f"r{n}", items=shown
            )
        else:
            yield InteractionEvent(
                event_id=f"e{n}", event_time_ms=at_ms, user_id=who, item_id=item_id(item),
                type="click" if n % 7 else "purchase", value=1.0 + n % 90,
            )  # fmt: skip


def _write(url: str, templates: list[bytes], users: int) -> None:
    """Write every user: the commands of a template with the id put in, over one socket."""
    host, _, port = url.removeprefix("redis://").partition("/")[0].partition(":")
    with socket.create_connection((host, int(port)), 60.0) as connection:
        wanted, got, waiting = 0, 0, bytearray()
        for number in range(users):
            template = templates[number % _TEMPLATES]
            own = template.replace(
                _template_id(number % _TEMPLATES).encode(), _user_id(number).encode()
            )
            waiting += own
            wanted += own.count(b"\r\nHSET\r\n")
            if len(waiting) >= _CHUNK or number == users - 1:
                connection.sendall(waiting)
                waiting.clear()
                while got < wanted:
                    answer = connection.recv(1 << 16)
                    if not answer or b"-" in answer:
                        raise ServerError(
                            "wanted Redis to take made-up users, found: "
                            f"{answer[:200].decode(errors='replace') or 'it closed'}; is it full?"
                        )
                    got += answer.count(b"\n")


def _read(system: System, plan: Plan, url: str, users: int) -> dict[str, float]:
    """Give CPU and bytes of reading a user, one in each call, users drawn at random."""
    rng = np.random.default_rng(users)
    vocabulary = Vocabulary(
        tuple(item_id(row) for row in range(1, NUM_ITEMS + 1)),
        tuple(f"c{n}" for n in range(NUM_CATEGORIES)),
    )
    reader = OnlineReader(plan, url)
    chosen = [_user_id(int(n)) for n in rng.integers(0, users, _READS + 20)]
    now = now_ms()
    known = sum(
        bool(reader.read_users([user], vocabulary=vocabulary, now_ms=now).known[0])
        for user in chosen[:20]
    )
    if known < 20:
        raise ServerError(f"wanted all users that were written to be found, found {known} of 20")
    with connect(url) as client:
        sent = client.info("stats")["total_net_output_bytes"]
        redis_cpu, cpu = _redis_cpu_s(client), time.process_time()
        for user in chosen[20:]:
            reader.read_users([user], vocabulary=vocabulary, now_ms=now)
        cpu, redis_cpu = time.process_time() - cpu, _redis_cpu_s(client) - redis_cpu
        sent = client.info("stats")["total_net_output_bytes"] - sent
    reader.close()
    return {
        "read_client_ms": round(1e3 * cpu / _READS, 4),
        "read_redis_ms": round(1e3 * redis_cpu / _READS, 4),
        "read_bytes": round(sent / _READS, 1),
    }


def _redis_cpu_s(client: object) -> float:
    info = client.info("cpu")  # type: ignore[attr-defined]
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
