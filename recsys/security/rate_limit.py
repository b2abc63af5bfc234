"""How often each caller may ask: one count in Redis for all processes, spent here in small leases.

Counted by the generic cell rate algorithm (GCRA): of each caller Redis holds one time, when its
bucket will be full again. A script moves it on by as many requests as are leased; that is one
round trip. A tenth of a second's worth is leased at once and the next lease is fetched while half
of the last is left, so a steady caller's requests do not wait for Redis.

What that costs in exactness. Each of N processes may hold one and a half leases that were counted
before, so over any ``t`` seconds all together let in at most ``burst + rate * (t + 0.15 N)``
requests. A lease not used within a second is lost: a caller whose requests come in bursts may be
refused as much too early. Below 20 a second, and with bursts below 8, leases are of one request,
and the count is exact.

Source: ITU-T I.371 (the algorithm, there for ATM cells); draft-ietf-httpapi-ratelimit-headers-10
(the header fields).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, Protocol

from recsys.errors import RecsysError, StageError
from recsys.features.redis.commands import pack
from recsys.features.redis.replies import ErrorReply
from recsys.security.scopes import Principal
from recsys.telemetry import RATE_UNDECIDED

logger = logging.getLogger(__name__)

WithoutRedis = Literal["local", "closed"]

_SCRIPT = b"""
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local period, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
full = math.min(full, now + burst * period)
local room = math.floor((now - full) / period + burst + 0.000001)
local granted = math.min(wanted, room)
if granted > 0 then
  full = full + granted * period
  redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
  return {granted, room - granted, 0}
end
return {0, 0, math.ceil(full + period - now - burst * period)}
"""
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
_LEASE_S = 0.1
_LEASE_LIFE_S = 1.0
_AWAY_S = 1.0
"""So long Redis is not asked again after it failed."""
_CALLERS = 10_000
"""Remembered by one process."""


class RateLimitedError(RecsysError):
    """A caller asks too often.

    Attributes:
        retry_after_s: When the next request will be let in.
        headers: What to tell the caller besides.
    """

    def __init__(self, message: str, *, retry_after_s: float, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.headers = headers


class Redis(Protocol):
    """What is asked of Redis; see ``AsyncRedisClient.call``."""

    async def call(
        self, keys: list[bytes], commands: list[bytes], *, timeout_s: float | None = None
    ) -> list[Any]:
        """Send commands."""


@dataclass(frozen=True, kw_only=True)
class RateConfig:
    """How often a caller may ask when its key says nothing."""

    rate_per_s: float | None = None
    """Requests a second; ``None``: as often as it likes."""
    burst: int | None = None
    """Requests at once; ``None``: a second's worth."""
    without_redis: WithoutRedis = "local"
    """``local``: each process counts alone, so N processes let in N times as much. ``closed``:
    nobody is let in."""
    timeout_s: float = 0.05
    """For one answer of Redis; a request must not wait longer for being counted."""


@dataclass(slots=True)
class _Caller:
    key: bytes
    rate_per_s: float
    burst: int
    tokens: int = 0
    """Leased and not used."""
    lease_ends_s: float = 0.0
    refused_until_s: float = 0.0
    remaining: int = 0
    """In Redis, when it was last asked."""
    waiting: int = 0
    fetching: asyncio.Task[None] | None = None
    full_at_s: float = 0.0
    """When the bucket of this process alone is full: counts while Redis is away."""

    @property
    def lease(self) -> int:
        return max(1, min(int(self.rate_per_s * _LEASE_S), self.burst // 4))

    def headers(self, now_s: float) -> dict[str, str]:
        left = self.tokens + self.remaining
        full_s = math.ceil((self.burst - left) / self.rate_per_s) if left < self.burst else 0
        window_s = math.ceil(self.burst / self.rate_per_s)
        return {
            "RateLimit-Policy": f'"key";q={self.burst};w={window_s}',
            "RateLimit": f'"key";r={left};t={full_s}',
        }


class RateLimiter:
    """Lets requests in or not. Belongs to one event loop."""

    def __init__(
        self,
        redis: Redis,
        namespace: str,
        config: RateConfig,
        *,
        elapsed_s: Callable[[], float] = monotonic,
    ) -> None:
        self._redis = redis
        self._prefix = f"{namespace}:rate:"
        self._config = config
        self._elapsed_s = elapsed_s
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._away_until_s = 0.0

    async def admit(self, principal: Principal) -> dict[str, str]:
        """Let one request in.

        Returns:
            Headers that tell what is left; none for a caller without a bound.

        Raises:
            RateLimitedError: when it is one too many.
            StageError: when Redis is away and ``without_redis`` is ``closed``.
        """
        rate_per_s = principal.rate_per_s or self._config.rate_per_s
        if rate_per_s is None:
            return {}
        caller = self._caller(principal, rate_per_s)
        while True:
            now_s = self._elapsed_s()
            if caller.tokens and now_s < caller.lease_ends_s:
                caller.tokens -= 1
                if caller.tokens < caller.lease / 2 and caller.lease > 1:
                    self._fetch(caller, now_s)
                return caller.headers(now_s)
            caller.tokens = 0
            if now_s < caller.refused_until_s:
                raise self._refusal(caller, caller.refused_until_s - now_s, now_s)
            if now_s < self._away_until_s:
                return self._alone(caller, now_s)
            caller.waiting += 1
            try:
                await asyncio.shield(self._fetch(caller, now_s))
            finally:
                caller.waiting -= 1

    async def aclose(self) -> None:
        """End what is under way."""
        for caller in self._callers.values():
            if caller.fetching is not None:
                caller.fetching.cancel()

    def _caller(self, principal: Principal, rate_per_s: float) -> _Caller:
        burst = principal.burst or self._config.burst or max(1, math.ceil(rate_per_s))
        caller = self._callers.get(principal.name)
        if caller is None or (caller.rate_per_s, caller.burst) != (rate_per_s, burst):
            key = f"{self._prefix}{principal.name}".encode()
            caller = self._callers[principal.name] = _Caller(key, rate_per_s, burst)
            if len(self._callers) > _CALLERS:
                self._callers.popitem(last=False)
        self._callers.move_to_end(principal.name)
        return caller

    def _fetch(self, caller: _Caller, now_s: float) -> asyncio.Task[None]:
        """Have the next lease fetched; one fetch at a time."""
        if caller.fetching is None:
            caller.fetching = asyncio.get_running_loop().create_task(self._lease(caller))
        return caller.fetching

    async def _lease(self, caller: _Caller) -> None:
        try:
            await asyncio.sleep(0)  # who comes in the same turn of the loop is counted in
            wanted = max(caller.lease, min(caller.waiting, caller.burst))
            granted, remaining, wait_us = await self._ask(caller, wanted)
            now_s = self._elapsed_s()
            if granted:
                caller.tokens += granted
                caller.lease_ends_s = now_s + _LEASE_LIFE_S
            else:
                caller.refused_until_s = now_s + max(wait_us, 1) / 1e6
            caller.remaining = remaining
        except (RecsysError, OSError) as error:
            now_s = self._elapsed_s()
            if now_s >= self._away_until_s:
                logger.warning("requests are not counted in Redis: %s", error)
            self._away_until_s = now_s + _AWAY_S
        finally:
            caller.fetching = None

    async def _ask(self, caller: _Caller, wanted: int) -> tuple[int, int, int]:
        arguments = [b"1", caller.key, *(
            b"%f" % (1e6 / caller.rate_per_s), b"%d" % caller.burst, b"%d" % wanted
        )]  # fmt: skip
        for command in (pack(b"EVALSHA", _SHA, *arguments), pack(b"EVAL", _SCRIPT, *arguments)):
            (reply,) = await self._redis.call(
                [caller.key], [command], timeout_s=self._config.timeout_s
            )
            if isinstance(reply, ErrorReply) and str(reply).startswith("NOSCRIPT"):
                continue
            break
        if isinstance(reply, ErrorReply):
            raise StageError(f"rate limit: Redis answered {reply}", stage="rate_limit")
        granted, remaining, wait_us = map(int, reply)
        return granted, remaining, wait_us

    def _alone(self, caller: _Caller, now_s: float) -> dict[str, str]:
        """Count in this process, or let nobody in."""
        RATE_UNDECIDED.inc()
        if self._config.without_redis == "closed":
            raise StageError(
                "requests cannot be counted, since Redis is away, so none is let in "
                "(RECSYS_RATE_LIMIT_WITHOUT_REDIS=closed)",
                stage="rate_limit",
            )
        period_s = 1 / caller.rate_per_s
        full_at_s = max(caller.full_at_s, now_s)
        wait_s = full_at_s + period_s - (now_s + caller.burst * period_s)
        if wait_s > 1e-9:
            raise self._refusal(caller, wait_s, now_s)
        caller.full_at_s = full_at_s + period_s
        caller.remaining = int(caller.burst - (caller.full_at_s - now_s) / period_s + 1e-6)
        return caller.headers(now_s)

    def _refusal(self, caller: _Caller, wait_s: float, now_s: float) -> RateLimitedError:
        return RateLimitedError(
            f"wanted at most {caller.rate_per_s:g} requests a second and {caller.burst} at once of "
            f"this key, found more; come back in {wait_s:.3f} s",
            retry_after_s=wait_s,
            headers=caller.headers(now_s),
        )
