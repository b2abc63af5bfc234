"""The API as the probe asks it: a connection for each question, and what all of them cost.

A connection of its own goes to whichever API process takes it, so that what is seen is not the
picture of one of several.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.loadtest.connection import Answer, ConnectionPool
from benchmarks.loadtest.http_request import prepare
from benchmarks.loadtest.probe import tracer
from benchmarks.loadtest.probe.tracer import Tracer
from benchmarks.loadtest.targets import Address
from recsys import api_calls
from recsys.api_calls import Call
from recsys.api_errors import key_in_force
from recsys.errors import ServerError

_PATIENCE_S = 5.0
_EVENTS_A_CALL = 100
_FULL = "full"


class _Item(msgspec.Struct):
    item_id: str


class _List(msgspec.Struct):
    items: list[_Item]
    rung: str
    degraded: str = ""


class _Features(msgspec.Struct):
    history: list[_Item]


class _User(msgspec.Struct):
    features: _Features


class _Taken(msgspec.Struct):
    accepted: int
    refusals: list[dict[str, Any]] = []


class Service:
    """Our HTTP API. Answers from a lower rung than ``full`` are evidence of nothing."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pool = ConnectionPool(address.host, address.port, address.tls(), keeps=False)
        key = key_in_force(None)  # an argument would stand in the process list
        self._headers = {"Connection": "close"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self.num_asked = 0
        self.num_unusable = 0
        """Questions that failed, or were answered from a lower rung."""
        self.asked_s = 0.0
        """Spent waiting for answers, over all questions."""
        self.trouble = ""
        """Why the latest of these could not be used."""

    async def check(self) -> None:
        """See that tracers can be asked for.

        Raises:
            ServerError: when the API does not answer, refuses us, or answers from a lower rung.
        """
        if await self.offered() is None:
            raise ServerError(
                f"wanted whole answers from the API at {self._address}, found: {self.trouble}; see "
                "`recsys status`, and set RECSYS_API_KEY where keys are asked for"
            )

    async def send(self, events: Sequence[Mapping[str, Any]]) -> str:
        """Send events; give why not all were accepted, nothing where they were."""
        for begin in range(0, len(events), _EVENTS_A_CALL):
            some = events[begin : begin + _EVENTS_A_CALL]
            try:
                answer = await self._answer(api_calls.events(some))
                if answer.status // 100 != 2:
                    return _said(answer)
                taken = msgspec.json.decode(answer.body, type=_Taken)
            except (OSError, TimeoutError, msgspec.MsgspecError) as error:
                return _told(error)
            if taken.accepted < len(some):
                return str(taken.refusals[0].get("message", "refused")) if taken.refusals else (
                    f"{taken.accepted} of {len(some)} events accepted"
                )  # fmt: skip
        return ""

    async def offered(self) -> list[str] | None:
        """Give all tracers' items that an answer has; ``None``: no whole answer."""
        found = await self._ask(api_calls.recommend(tracer.all_offered()), _List)
        return None if found is None else [item.item_id for item in found.items]

    async def shows(self, traced: Tracer, user_id: str) -> bool | None:
        """Whether the user's answer has the item; ``None``: no whole answer."""
        found = await self._ask(api_calls.recommend(traced.asked_by(user_id)), _List)
        return None if found is None else any(i.item_id == traced.item_id for i in found.items)

    async def has_clicked(self, traced: Tracer) -> bool | None:
        """Whether the click is in the user's features; ``None``: no answer."""
        found = await self._ask(api_calls.user(traced.user_id), _User)
        if found is None:
            return None
        return any(item.item_id == traced.item_id for item in found.features.history)

    async def _ask(self, call: Call[Any], kind: type[Any]) -> Any:
        began_s = time.perf_counter()
        self.num_asked += 1
        try:
            answer = await self._answer(call)
            if answer.status == 200:
                found = msgspec.json.decode(answer.body, type=kind)
                if getattr(found, "rung", _FULL) == _FULL:
                    return found
                self.trouble = f"an answer of rung {found.rung} ({found.degraded})"
            else:
                self.trouble = _said(answer)
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            self.trouble = _told(error)
        finally:
            self.asked_s += time.perf_counter() - began_s
        self.num_unusable += 1
        return None

    async def _answer(self, call: Call[Any]) -> Answer:
        address = self._address
        request = prepare(
            call.method, call.path, call.body, host=f"{address.host}:{address.port}",
            headers=self._headers,
        )  # fmt: skip
        return await self._pool.send(request, timeout_s=_PATIENCE_S)


def _said(answer: Answer) -> str:
    return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
