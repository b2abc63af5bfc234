"""What processes say they serve: seen by others, lapsing with them, ended by a goodbye."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest

from recsys.bundle.announced import LAPSES_MS, Announcement, Announcements
from recsys.features.redis.async_client import AsyncRedisClient
from serving.bundles_in_use import await_taken_up

pytestmark = pytest.mark.servers


def with_redis(url: str, test: Callable[[AsyncRedisClient, str], Awaitable[None]]) -> None:
    async def run() -> None:
        client = AsyncRedisClient(url)
        try:
            await test(client, f"t{uuid.uuid4().hex[:8]}")
        finally:
            await client.aclose()

    asyncio.run(run())


def test_what_a_process_says_is_seen_until_it_ends_or_falls_silent(redis_url: str) -> None:
    async def test(client: AsyncRedisClient, namespace: str) -> None:
        now = [1_000_000]
        one, two = (Announcements(client, namespace, clock=lambda: now[0]) for _ in range(2))
        assert await one.present() == {}
        first = Announcement(live="a", beside=["b"], held=["a", "b", "c"])
        await one.announce(first)
        await two.announce(Announcement(live=None))
        assert list((await two.present()).values()).count(first) == 1
        assert len(await two.present()) == 2
        now[0] += LAPSES_MS
        await two.announce(Announcement(live="a"))
        now[0] += 1
        assert list((await one.present()).values()) == [Announcement(live="a")]
        await two.withdraw()
        assert await one.present() == {}

    with_redis(redis_url, test)


def test_waiting_ends_when_the_last_process_has_followed(redis_url: str) -> None:
    async def test(client: AsyncRedisClient, namespace: str) -> None:
        one, two = (Announcements(client, namespace) for _ in range(2))
        assert await await_taken_up(one, "b", [], timeout_s=1) == "no API process is at work"
        await one.announce(Announcement(live="b"))
        await two.announce(Announcement(live="a"))
        said = await await_taken_up(one, "b", [], timeout_s=0.1)
        assert said.startswith("1 of 2 API processes have not followed within 0.1 s")
        waiting = asyncio.create_task(await_taken_up(one, "b", ["c"], timeout_s=10))
        await one.announce(Announcement(live="b", beside=["c"]))
        await two.announce(Announcement(live="b"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await two.announce(Announcement(live="b", beside=["c"]))
        assert await waiting == ""

    with_redis(redis_url, test)


def test_a_redis_that_is_away_is_said_and_not_waited_for() -> None:
    async def run() -> None:
        client = AsyncRedisClient("redis://127.0.0.1:1", timeout_s=0.2)
        said = await await_taken_up(Announcements(client, "t"), "a", [], timeout_s=5)
        assert "is not known" in said
        await client.aclose()

    asyncio.run(run())
