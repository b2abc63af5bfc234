"""Requests are counted for each caller, by all processes together, and not too many get in."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from recsys.errors import ServerError, StageError
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.commands import pack
from recsys.security.rate_limit import RateConfig, RateLimitedError, RateLimiter, WithoutRedis
from recsys.security.scopes import Principal


def caller(rate_per_s: float | None = None, burst: int | None = None, name: str = "") -> Principal:
    return Principal(
        name=f"key:{name or uuid.uuid4().hex}", scopes=frozenset({"serve"}),
        rate_per_s=rate_per_s, burst=burst,
    )  # fmt: skip


PATIENT = RateConfig(timeout_s=10.0)
"""What is tested here is the count, also on a machine that is busy with other things."""


class NoRedis:
    """Redis that is away; says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def call(self, keys: list[bytes], commands: list[bytes], **_: Any) -> list[Any]:
        self.asked += 1
        raise ServerError("Redis does not answer")


async def let_in(limiter: RateLimiter, who: Principal, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            await limiter.admit(who)
            count += 1
        except RateLimitedError:
            pass
    return count


async def count_concurrent(limiter: RateLimiter, who: Principal, tries: int) -> int:
    answers = await asyncio.gather(
        *(limiter.admit(who) for _ in range(tries)), return_exceptions=True
    )
    assert all(isinstance(a, dict | RateLimitedError) for a in answers), answers
    return sum(isinstance(answer, dict) for answer in answers)


@pytest.mark.servers
def test_all_processes_together_let_in_the_burst(redis_url: str) -> None:
    async def run() -> None:
        clients = [AsyncRedisClient(redis_url) for _ in range(4)]
        limiters = [RateLimiter(client, "t", PATIENT) for client in clients]
        who = caller(rate_per_s=0.01, burst=10)  # the next after 100 s
        counts = await asyncio.gather(*(count_concurrent(one, who, 10) for one in limiters))
        assert sum(counts) == 10
        (ttl,) = await clients[0].call([b""], [pack(b"PTTL", f"t:rate:{who.name}".encode())])
        assert 0 < ttl <= 1_000_000
        other = caller(rate_per_s=0.01, burst=10)
        assert await count_concurrent(limiters[0], other, 11) == 10
        for limiter, client in zip(limiters, clients, strict=True):
            await limiter.aclose()
            await client.aclose()

    asyncio.run(run())


@pytest.mark.servers
def test_refusal_says_when_to_come_back_and_then_lets_in(redis_url: str) -> None:
    async def run() -> None:
        client = AsyncRedisClient(redis_url)
        limiter = RateLimiter(client, "t", PATIENT)
        who = caller(rate_per_s=2, burst=2)
        headers = await limiter.admit(who)
        assert headers["RateLimit-Policy"] == '"key";q=2;w=1'
        assert headers["RateLimit"] == '"key";r=1;t=1'
        await limiter.admit(who)
        with pytest.raises(RateLimitedError) as refused:
            await limiter.admit(who)
        assert 0 < refused.value.retry_after_s <= 0.5
        assert refused.value.headers["RateLimit"].startswith('"key";r=0')
        await asyncio.sleep(refused.value.retry_after_s + 0.02)
        await limiter.admit(who)
        await limiter.aclose()
        await client.aclose()

    asyncio.run(run())


class Counting:
    """A real Redis; says how often it was asked."""

    def __init__(self, client: AsyncRedisClient) -> None:
        self._client = client
        self.asked = 0

    async def call(self, keys: list[bytes], commands: list[bytes], **options: Any) -> list[Any]:
        self.asked += 1
        return await self._client.call(keys, commands, **options)


@pytest.mark.servers
def test_leases_spare_round_trips_and_refusals_need_none(redis_url: str) -> None:
    async def run() -> None:
        client = AsyncRedisClient(redis_url)
        redis = Counting(client)
        limiter = RateLimiter(redis, "t", PATIENT)
        who = caller(rate_per_s=1000, burst=1000)
        for _ in range(300):
            await limiter.admit(who)
            await asyncio.sleep(0)
        assert redis.asked <= 12  # leases of 100; a script the server did not know yet
        slow = caller(rate_per_s=0.01, burst=1)
        await limiter.admit(slow)
        with pytest.raises(RateLimitedError):
            await limiter.admit(slow)
        before = redis.asked
        assert await let_in(limiter, slow, 50) == 0
        assert redis.asked == before
        await limiter.aclose()
        await client.aclose()

    asyncio.run(run())


def test_caller_without_a_rate_is_not_counted() -> None:
    async def run() -> None:
        redis = NoRedis()
        assert await RateLimiter(redis, "t", PATIENT).admit(caller()) == {}
        assert redis.asked == 0

    asyncio.run(run())


def undecided() -> float:
    return REGISTRY.get_sample_value("recsys_rate_undecided_total") or 0.0


@pytest.mark.parametrize(("policy", "admitted"), [("local", 5), ("closed", 0)])
def test_without_redis(policy: WithoutRedis, admitted: int) -> None:
    time_s = [100.0]
    clock: Callable[[], float] = lambda: time_s[0]  # noqa: E731

    async def run() -> None:
        redis = NoRedis()
        limiter = RateLimiter(
            redis, "t", RateConfig(rate_per_s=1, burst=5, without_redis=policy), elapsed_s=clock
        )
        who = caller()
        before = undecided()
        if policy == "closed":
            for _ in range(3):
                with pytest.raises(StageError, match="none is let in"):
                    await limiter.admit(who)
        else:
            assert await let_in(limiter, who, 20) == admitted
            time_s[0] += 0.9
            assert await let_in(limiter, who, 5) == 0
            time_s[0] += 0.1
            assert await let_in(limiter, who, 5) == 1
            assert await let_in(limiter, caller(rate_per_s=0.5, burst=1), 5) == 1
        assert undecided() > before
        assert redis.asked <= 3  # and not once for each request

    asyncio.run(run())


@pytest.mark.servers
def test_clock_of_the_server_set_back_locks_nobody_out(redis_url: str) -> None:
    async def run() -> None:
        client = AsyncRedisClient(redis_url)
        limiter = RateLimiter(client, "t", PATIENT)
        who = caller(rate_per_s=10, burst=2)
        key = f"t:rate:{who.name}".encode()
        await client.call([key], [pack(b"SET", key, b"9007199254740991")])
        with pytest.raises(RateLimitedError) as refused:
            await limiter.admit(who)
        assert refused.value.retry_after_s <= 0.1
        await limiter.aclose()
        await client.aclose()

    asyncio.run(run())
