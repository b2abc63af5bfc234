"""Our gRPC API as a target: the same requests over HTTP/2, many at once over each connection."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import grpc.aio

from benchmarks.loadtest.http_api import events_of
from benchmarks.loadtest.paced import Pacer
from benchmarks.loadtest.targets import Address, Stages
from benchmarks.loadtest.traffic import Traffic, Wanted
from recsys.grpc_api.calling import BY_NAME, Calls, GrpcConfig, stub
from recsys.grpc_api.statuses import CODE_KEY

_CONNECTIONS = 4
"""Of each sender: one is worked off by one thread of the server."""


class GrpcApi(Calls):
    """See ``targets.Target``. The key is that of ``RECSYS_API_KEY``, if any."""

    def __init__(self, address: Address) -> None:
        # What is tried again would be counted once: no retries.
        config = GrpcConfig(
            retries=0, connections=_CONNECTIONS, tls=address.scheme == "grpcs",
            cafile=os.environ.get("RECSYS_API_CAFILE") if address.scheme == "grpcs" else None,
            certfile=os.environ.get("RECSYS_API_CERTFILE") if address.scheme == "grpcs" else None,
        )  # fmt: skip
        super().__init__(f"{address.host}:{address.port}", config)

    def put(self, wanted: Wanted) -> tuple[str, Any]:
        """Give the method and its message."""
        if wanted.kind == "rank":
            asked = {"user_id": wanted.user_id, "item_ids": list(wanted.items)}
            return "Rank", self._put("Rank", asked)
        if wanted.kind == "similar":
            return "Similar", self._put("Similar", {"item_id": wanted.items[0], "k": wanted.k})
        if wanted.kind == "events":
            return "SendEvents", self._put("SendEvents", {"events": events_of(wanted)})
        return "Recommend", self._put("Recommend", {"user_id": wanted.user_id, "k": wanted.k})

    def shown(self, answer: Any) -> tuple[str, Sequence[str]]:
        """See ``traffic.Words.shown``."""
        return answer.request_id, [item.item_id for item in answer.items]

    def outlet(self, traffic: Traffic, stages: Stages) -> GrpcCalls:
        """See ``targets.Target.outlet``; gRPC answers say nothing of stages."""
        return GrpcCalls(self, traffic)

    def channels(self) -> list[grpc.aio.Channel]:
        """Open connections on the running event loop."""
        credentials, options = self._credentials(), self._options()
        return [
            grpc.aio.insecure_channel(self.address, options)
            if credentials is None
            else grpc.aio.secure_channel(self.address, credentials, options)
            for _ in range(self._config.connections)
        ]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        return self._metadata


class GrpcCalls:
    """Calls under way. See ``paced.Outlet``."""

    def __init__(self, api: GrpcApi, traffic: Traffic) -> None:
        self._api, self._traffic = api, traffic
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: dict[str, Iterator[Any]] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    async def open(self, pacer: Pacer) -> None:
        """Connect; that nobody answers shows in the requests."""
        self._pacer = pacer
        self._channels = self._api.channels()
        self._stubs = {
            name: itertools.cycle([stub(channel, method) for channel in self._channels])
            for name, method in BY_NAME.items()
        }
        ready = (asyncio.wait_for(channel.channel_ready(), 1.0) for channel in self._channels)
        await asyncio.gather(*ready, return_exceptions=True)

    def send(self, number: int, request: tuple[str, Any]) -> None:
        """Begin the call."""
        task = asyncio.get_running_loop().create_task(self._one(number, *request))
        self._running[number] = task

    def drop(self, number: int) -> None:
        """Call it off."""
        task = self._running.pop(number, None)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Call off what runs, and end the connections."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    async def _one(self, number: int, method: str, message: Any) -> None:
        call = next(self._stubs[method])(message, metadata=self._api.metadata)
        self._pacer.sent(number)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            if CODE_KEY in dict(error.trailing_metadata() or ()):
                self._pacer.answered(number, f"grpc {code}")  # the service itself said no
            else:
                self._pacer.failed(number, code)
        else:
            if method == "Recommend":
                self._traffic.answered(number, answer)
            rung = getattr(answer, "rung", "")
            self._pacer.answered(number, f"200 {rung}".rstrip())
        finally:
            self._running.pop(number, None)
