"""Events sent beside the load: of acknowledged ones none may be lost or counted twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from urllib.request import urlopen

import polars as pl

from benchmarks.loadtest.chaos.system import System, wait_until
from benchmarks.loadtest.connection import ConnectionPool, prepare_post
from recsys.errors import ServerError
from recsys.events.event_log import scan
from recsys.events.topics import Topics
from recsys.settings import Settings

_USERS = 20
_PATIENCE_S = 60.0


@dataclass
class SentEvents:
    """Each pair of user and item is sent once."""

    item_ids: list[str]
    run: str
    """Part of every identity, so that runs do not mix."""
    acknowledged: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Event id to user and item."""
    refused: int = 0

    async def send(
        self, pool: ConnectionPool, host: str, port: int, *, rate_per_s: float, until_s: float
    ) -> None:
        """Send one event after the other, each once, until ``perf_counter`` is ``until_s``."""
        running: set[asyncio.Task[None]] = set()
        number = 0
        while time.perf_counter() < until_s and number < _USERS * len(self.item_ids):
            task = asyncio.create_task(self._one(pool, host, port, number))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            await asyncio.sleep(1.0 / rate_per_s)
        if running:
            await asyncio.gather(*running)

    async def _one(self, pool: ConnectionPool, host: str, port: int, number: int) -> None:
        event_id = f"{self.run}-{number}"
        user_id = f"{self.run}-user-{number % _USERS}"
        item_id = self.item_ids[number // _USERS]
        body = {
            "kind": "interaction", "event_id": event_id, "event_time_ms": int(time.time() * 1e3),
            "user_id": user_id, "item_id": item_id, "type": "click",
        }  # fmt: skip
        request = prepare_post(host, port, "/v1/events", json.dumps(body).encode())
        try:
            answer = await pool.send(request, timeout_s=30.0)
        except (OSError, TimeoutError):
            self.refused += 1
            return
        if answer.status == 202:
            self.acknowledged[event_id] = user_id, item_id
        else:
            self.refused += 1

    def check(self, system: System) -> dict[str, int]:
        """Wait until everything is applied; give what was acknowledged, lost and counted twice."""
        system.run("lag", "--wait")
        settings = Settings(RECSYS_STATE_DIR=system.state_dir)
        topic = Topics(namespace=settings.namespace).behaviour

        def missing() -> set[str]:
            found = scan(settings.event_log_dir, [topic]).select("event_id").collect()
            return set(self.acknowledged) - set(found["event_id"])

        with contextlib.suppress(ServerError):  # what is missing is the result
            wait_until(lambda: not missing(), "every event in the event log", _PATIENCE_S)

        logged = scan(settings.event_log_dir, [topic]).select("event_id").collect()
        repeated = logged.filter(pl.col("event_id").is_in(list(self.acknowledged)))
        repeated = repeated.group_by("event_id").len().filter(pl.col("len") > 1)
        counted: dict[tuple[str, str], float] = {}
        for user_id in {user for user, _ in self.acknowledged.values()}:
            with urlopen(f"http://127.0.0.1:{system.port}/v1/users/{user_id}") as page:
                for item in json.load(page)["features"]["history"]:
                    counted[user_id, item["item_id"]] = item["count"]
        pairs = set(self.acknowledged.values())
        return {
            "acknowledged": len(self.acknowledged),
            "not_acknowledged": self.refused,
            "lost_from_the_event_log": len(missing()),
            "lost_from_features": sum(pair not in counted for pair in pairs),
            "counted_twice": sum(counted.get(pair, 0.0) > 1.0 for pair in pairs),
            "in_the_log_twice": len(repeated),
        }
