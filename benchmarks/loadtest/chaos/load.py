"""Requests for an experiment: users who exist, how many a second the system takes, and sending."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import msgspec
import numpy as np

from benchmarks.loadtest.arrivals import poisson_arrivals_s, zipf_users
from benchmarks.loadtest.chaos.system import System
from benchmarks.loadtest.chaos.watch import Watch, read_answer, watch_of
from benchmarks.loadtest.connection import ConnectionPool, prepare_post
from benchmarks.loadtest.paced import Pacer, paced_http
from recsys.events.event_log import scan
from recsys.events.topics import Topics
from recsys.settings import Settings

HOST = "127.0.0.1"
PATH = "/v1/recommendations"


def known_users(system: System) -> list[str]:
    """Give the users of the event log, busiest first."""
    settings = Settings(RECSYS_STATE_DIR=system.state_dir)
    topic = Topics(namespace=settings.namespace).behaviour
    counted = scan(settings.event_log_dir, [topic]).group_by("user_id").len().collect()
    ordered = counted.sort(["len", "user_id"], descending=[True, False])
    return [user for user in ordered["user_id"].to_list() if user]


def requests(
    port: int, users: list[str], rate_per_s: float, duration_s: float, *, k: int, seed: int
) -> tuple[list[bytes], list[float]]:
    """Give prepared requests of Zipf-distributed users and when each is due."""
    rng = np.random.default_rng(seed)
    due_s = poisson_arrivals_s(rate_per_s=rate_per_s, duration_s=duration_s, rng=rng)
    asking = zipf_users(users, len(due_s), exponent=1.0, rng=rng)
    bodies = (msgspec.json.encode({"user_id": user, "k": k}) for user in asking)
    return [prepare_post(HOST, port, PATH, body) for body in bodies], due_s.tolist()


def sending(
    port: int, prepared: list[bytes], due_s: list[float], *, timeout_s: float = 5.0
) -> Pacer:
    """Give what sends these requests, however many wait for an answer."""
    return paced_http(
        prepared, np.array(due_s), host=HOST, port=port, timeout_s=timeout_s,
        max_waiting=len(prepared), label=read_answer,
    )  # fmt: skip


async def open_loop(
    port: int, users: list[str], rate: float, duration_s: float, *, seed: int
) -> Watch:
    """Send at ``rate`` for ``duration_s`` and give what came."""
    prepared, due_s = requests(port, users, rate, duration_s, k=10, seed=seed)
    return watch_of(await sending(port, prepared, due_s).run(), due_s)


async def most_per_s(port: int, users: list[str], *, seconds: float, callers: int = 16) -> float:
    """Give the full answers a second that ``callers`` get who ask again as soon as answered."""
    pool = ConnectionPool(HOST, port)
    rungs: Counter[str] = Counter()
    until_s = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        turn = number
        while time.perf_counter() < until_s:
            body = msgspec.json.encode({"user_id": users[turn % len(users)], "k": 10})
            answer = await pool.send(prepare_post(HOST, port, PATH, body), timeout_s=10.0)
            turn += callers
            if answer.status == 200:
                rungs[json.loads(answer.body)["rung"]] += 1

    await asyncio.gather(*(caller(number) for number in range(callers)))
    pool.close()
    return rungs["full"] / seconds
