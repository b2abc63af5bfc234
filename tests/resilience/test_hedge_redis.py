"""Hedged reads over a real Redis: one connection hangs, another answers."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

import pytest

from recsys.deadline import Deadline
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.commands import pack
from recsys.resilience.hedge import Hedge
from recsys.resilience.hedge_rule import HedgeConfig

pytestmark = pytest.mark.servers


class HangingProxy:
    """Passes bytes on to Redis; connections named in ``hanging`` get no answers."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self.num_connections = 0
        self.hanging: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.num_connections
        self.num_connections += 1
        from_redis, to_redis = await asyncio.open_connection(*self._to)
        for source, target, waits in ((reader, to_redis, False), (from_redis, writer, True)):
            task = asyncio.create_task(self._pass_on(number, source, target, waits))
            self._tasks.add(task)

    async def _pass_on(
        self, number: int, source: asyncio.StreamReader, target: asyncio.StreamWriter, waits: bool
    ) -> None:
        try:
            while data := await source.read(65_536):
                while waits and number in self.hanging:
                    await asyncio.sleep(0.01)
                target.write(data)
        except OSError:
            pass
        finally:
            target.close()


def test_a_connection_that_hangs_costs_a_hedge_and_not_the_deadline(redis_url: str) -> None:
    async def go() -> tuple[list[float], int]:
        redis = urlsplit(redis_url)
        proxy = HangingProxy(redis.hostname or "127.0.0.1", redis.port or 6379)
        port = await proxy.start()
        client = AsyncRedisClient(f"redis://127.0.0.1:{port}{redis.path}")
        hedge = Hedge(HedgeConfig(min_reads=10, min_delay_s=0.02))

        async def ping() -> None:
            (answer,) = await client.call([b""], [pack(b"PING")])
            assert answer == b"PONG"

        times_s = []
        try:
            for number in range(20):
                if number == 15:
                    proxy.hanging.add(0)
                start_s = time.perf_counter()
                await hedge.read(ping, Deadline.after_ms(500))
                times_s.append(time.perf_counter() - start_s)
            await asyncio.sleep(0.6)  # the one that hangs is given up at its deadline
        finally:
            await client.aclose()
            await proxy.stop()
        return times_s, proxy.num_connections

    times_s, num_connections = asyncio.run(go())
    assert max(times_s[15:]) < 0.4, "answered by the second connection"
    assert times_s[15] > 0.015, "after the first had its time"
    assert num_connections == 2
