"""The load of an experiment: of users who exist, as many a second as the system can take."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from benchmarks.loadtest.chaos.system import System
from benchmarks.loadtest.chaos.watch import Watch, read_answer, watch_of
from benchmarks.loadtest.connection import ConnectionPool, prepare_post
from benchmarks.loadtest.stretch import PATH, Asking, Stretch, draw
from recsys.events.event_log import scan
from recsys.events.topics import Topics
from recsys.settings import Settings

HOST = "127.0.0.1"
K = 10
"""Items asked for."""


def known_users(system: System) -> list[str]:
    """Give the users of the event log, busiest first."""
    settings = Settings(RECSYS_STATE_DIR=system.state_dir)
    topic = Topics(namespace=settings.namespace).behaviour
    counted = scan(settings.event_log_dir, [topic]).group_by("user_id").len().collect()
    ordered = counted.sort(["len", "user_id"], descending=[True, False])
    return [user for user in ordered["user_id"].to_list() if user]


def drawn(
    port: int, users: Sequence[str], rate_per_s: float, duration_s: float, *, seed: int
) -> Stretch:
    """Draw what ``users`` ask in ``duration_s``."""
    asking = Asking(host=HOST, port=port, user_ids=tuple(users), k=K)
    return draw(asking, rate_per_s, duration_s, np.random.default_rng(seed))


def send(port: int, users: Sequence[str], rate: float, duration_s: float, *, seed: int) -> Watch:
    """Send at ``rate`` for ``duration_s``, however many wait for an answer; give what came."""
    stretch = drawn(port, users, rate, duration_s, seed=seed)
    return watch_of(stretch.send(label=read_answer, max_waiting=len(stretch.due_s)))


async def most_per_s(
    port: int, users: Sequence[str], *, seconds: float, callers: int = 16
) -> float:
    """Give the full answers a second that ``callers`` get who ask again as soon as answered."""
    pool = ConnectionPool(HOST, port)
    rungs: Counter[str] = Counter()
    until_s = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        turn = number
        while time.perf_counter() < until_s:
            body = msgspec.json.encode({"user_id": users[turn % len(users)], "k": K})
            answer = await pool.send(prepare_post(HOST, port, PATH, body), timeout_s=10.0)
            turn += callers
            if answer.status == 200:
                rungs[json.loads(answer.body)["rung"]] += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    pool.close()
    return rungs["full"] / seconds
