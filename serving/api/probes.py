"""One question to each part the API needs, for ``/readyz``."""

from __future__ import annotations

import asyncio

import redis.asyncio

from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.inference.triton import TritonServer
from recsys.settings import Settings

_TIMEOUT_S = 2.0


async def ask_redis(redis_url: str) -> str:
    """PING. Raises ServerError when there is no answer."""
    client = redis.asyncio.Redis.from_url(
        redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
    )
    try:
        await client.ping()
    except redis.RedisError as error:
        place = redis_url.rpartition("@")[2]
        raise ServerError(f"Redis at {place} does not answer: {error}") from error
    finally:
        await client.aclose()
    return "answers PING"


async def ask_kafka(settings: Settings, endpoints: Endpoints) -> str:
    """Describe the cluster. Raises ServerError when there is no answer."""
    from recsys.events.kafka import check_broker

    health = await asyncio.to_thread(check_broker, settings, endpoints, timeout_s=_TIMEOUT_S)
    return f"{health.num_brokers} broker(s) at {health.address}"


async def ask_triton(server: TritonServer) -> str:
    """ServerReady. Raises ServerError when there is no answer or it is no."""
    if not await server.is_ready(timeout_s=_TIMEOUT_S):
        raise ServerError(f"Triton at {server.address} is not ready; see `recsys status`")
    return f"ready at {server.address}"
