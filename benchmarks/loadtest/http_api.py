"""Our HTTP API as a target."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from benchmarks.loadtest.http_connections import HttpConnections
from benchmarks.loadtest.http_request import prepare
from benchmarks.loadtest.paced import rung_of
from benchmarks.loadtest.server_timing import note_stages
from benchmarks.loadtest.targets import Address, Stages
from benchmarks.loadtest.traffic import Traffic, Wanted
from recsys import api_calls
from recsys.api_calls import Call
from recsys.api_errors import key_in_force
from recsys.wire import RankRequest, RecommendRequest


class _Item(msgspec.Struct):
    item_id: str


class _List(msgspec.Struct):
    request_id: str
    items: list[_Item]


class HttpApi:
    """See ``targets.Target``. The key is that of ``RECSYS_API_KEY``, if any."""

    def __init__(self, address: Address) -> None:
        self._address, self._tls = address, address.tls()
        key = key_in_force(None)  # an argument would stand in the process list
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._made: dict[str, bytes] = {}
        self._decode = msgspec.json.Decoder(_List).decode

    def put(self, wanted: Wanted) -> bytes:
        """Give the bytes; those of a user's recommendations are made once."""
        if wanted.kind != "recommend":
            return self._bytes(_call(wanted))
        found = self._made.get(wanted.user_id)
        if found is None:
            found = self._made[wanted.user_id] = self._bytes(_call(wanted))
        return found

    def shown(self, answer: bytes) -> tuple[str, Sequence[str]]:
        """See ``traffic.Words.shown``; another service's answer shows nothing."""
        try:
            found = self._decode(answer)
        except msgspec.MsgspecError:
            return "", ()
        return found.request_id, [item.item_id for item in found.items]

    def outlet(self, traffic: Traffic, stages: Stages) -> HttpConnections:
        """See ``targets.Target.outlet``."""

        def read(number: int, status: int, body: bytes, timing: bytes) -> str:
            if status == 200:
                traffic.answered(number, body)
            if timing:
                note_stages(timing, stages)
            return rung_of(status, body)

        address = self._address
        return HttpConnections(address.host, address.port, self._tls, read=read, with_timing=True)

    def _bytes(self, call: Call[Any]) -> bytes:
        address = self._address
        return prepare(
            call.method, call.path, call.body, host=f"{address.host}:{address.port}",
            headers=self._headers,
        )  # fmt: skip


def _call(wanted: Wanted) -> Call[Any]:
    if wanted.kind == "rank":
        return api_calls.rank(RankRequest(user_id=wanted.user_id, item_ids=list(wanted.items)))
    if wanted.kind == "similar":
        return api_calls.similar(wanted.items[0], wanted.k)
    if wanted.kind == "events":
        return api_calls.events(events_of(wanted))
    return api_calls.recommend(RecommendRequest(user_id=wanted.user_id, k=wanted.k))


def events_of(wanted: Wanted) -> list[dict[str, Any]]:
    """Give a list as shown, and what was clicked in it, as events."""
    shown = wanted.shown
    assert shown is not None
    now_ms, run = int(time.time() * 1e3), uuid.uuid4().hex
    about = {"event_time_ms": now_ms, "user_id": shown.user_id, "request_id": shown.request_id}
    return [
        {"kind": "impression", "event_id": f"{run}-i", "items": list(shown.items), **about},
        *(
            {"kind": "interaction", "event_id": f"{run}-{place}", "type": "click",
             "item_id": shown.items[place], "position": place, **about}
            for place in wanted.clicks
        ),
    ]  # fmt: skip
