"""One question to each part the API needs, for ``/readyz``."""

from __future__ import annotations

import asyncio

from recsys.endpoints import Endpoints
from recsys.errors import ServerError
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.commands import pack
from recsys.features.redis.replies import ErrorReply
from recsys.inference.triton import TritonServer
from recsys.settings import Settings

_TIMEOUT_S = 0.7


async def ask_redis(redis_url: str) -> str:
    """PING. Raises ServerError when there is no answer."""
    client = AsyncRedisClient(redis_url, timeout_s=_TIMEOUT_S)
    try:
        (answer,) = await client.call([b""], [pack(b"PING")])
    finally:
        await client.aclose()
    if isinstance(answer, ErrorReply):
        raise ServerError(f"Redis at {client.address} does not answer: {answer}")
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
