"""Sends tracers at random moments and looks for what they change.

When a tracer begins is fixed before anything is sent, by a Poisson process: moments of such a
process see a system as it is on average, whatever its own rhythms (Wolff 1982, "Poisson arrivals
see time averages"). Its click and its withdrawal follow at fixed distances, and a Poisson process
that is moved stays one. Only what is late waits for what it needs: a click for its item.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.loadtest.arrivals import poisson_arrivals_s
from benchmarks.loadtest.probe.result import Observation, Outcome
from benchmarks.loadtest.probe.service import Service
from benchmarks.loadtest.probe.tracer import Tracer, is_left, item_id, withdrawn
from benchmarks.loadtest.probe.watching import WatchConfig, Watched, watch
from recsys.clock import now_ms
from recsys.telemetry import TRACER_SEEN_SECONDS, TRACER_UNSEEN

DWELL_S = 0.5
"""From a tracer's creation to its click, and from that to its withdrawal."""
_EVENTS = 3
_MARGIN_S = 60.0
"""Beyond the longest that a tracer can be under way, before another run may clear it away."""
_TRIES, _RETRY_S = 3, 0.2


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is sent."""

    rate: float
    """Tracers a second; each is three events."""
    duration_s: float
    """In which tracers begin."""
    watch: WatchConfig
    seed: int


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """An event that was accepted."""

    at_s: float
    """Reading of ``perf_counter`` before it was sent."""
    accepted_s: float
    """Seconds after it."""


@dataclass(kw_only=True)
class Prober:
    """One run. ``observations`` grow while it runs; so does what is still looked for."""

    service: Service
    config: ProbeConfig
    observations: list[Observation] = field(default_factory=list)
    num_due: int = 0
    num_begun: int = 0
    watching: dict[str, int] = field(default_factory=dict)
    """Changes that are looked for at the moment, by path."""
    items_cleared: int = 0
    items_left: list[str] = field(default_factory=list)
    begin_s: float = 0.0
    """Reading of ``perf_counter``."""
    end_s: float = 0.0
    """The same, after the last look and before the tidying up."""
    _offered: dict[str, None] = field(default_factory=dict)
    _run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    async def clear(self) -> None:
        """Withdraw tracers' items that a killed run has left.

        Raises:
            ServerError: when the API does not answer as it should.
        """
        await self.service.check()
        left = [item for item in await self.service.offered() or () if is_left(item, now_ms())]
        if left:
            self.items_cleared = len(left) - len(await self._withdraw(left))

    async def run(self, stop: asyncio.Event) -> None:
        """Send all tracers and look for them, or until ``stop``; withdraw every item at the end."""
        rng = np.random.default_rng(self.config.seed)
        due_s = poisson_arrivals_s(
            rate_per_s=self.config.rate, duration_s=self.config.duration_s, rng=rng
        )
        self.num_due = len(due_s)
        self.begin_s = time.perf_counter()
        stopping = asyncio.ensure_future(stop.wait())
        running: set[asyncio.Task[None]] = set()
        mistakes: list[BaseException] = []

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            if not task.cancelled() and (mistake := task.exception()) is not None:
                mistakes.append(mistake)
                stop.set()

        try:
            for number, due in enumerate(due_s.tolist()):
                pause_s = max(self.begin_s + due - time.perf_counter(), 0.0)
                await asyncio.wait([stopping], timeout=pause_s)
                if stop.is_set():
                    break
                self.num_begun += 1
                task = asyncio.create_task(self._trace(number, self.begin_s + due))
                running.add(task)
                task.add_done_callback(ended)
            while running and not stop.is_set():
                await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            under_way = list(running)
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            self.end_s = time.perf_counter()
            self.items_left = await self._withdraw(list(self._offered))
        if mistakes:
            raise mistakes[0]

    async def _trace(self, number: int, due_s: float) -> None:
        watch_s = self.config.watch.timeout_s
        longest_s = _EVENTS * (watch_s + DWELL_S) + _MARGIN_S
        item = item_id(self._run, number, gone_by_ms=now_ms() + int(1e3 * longest_s))
        tracer = Tracer(number=number, item_id=item)
        service = self.service
        self._offered[item] = None  # before it is sent: an event without an answer may be accepted
        made = await self._send("created", tracer, tracer.offered())
        if made is None or not await self._look(
            "created", tracer, made, lambda: service.shows(tracer, tracer.user_id)
        ):
            for path in ("features", "answer", "withdrawn"):
                self._note(path, tracer, "untried", reason="its item was not seen before")
            await service.send([withdrawn(item)])  # at the end it is seen that it is gone
            return
        await _until(due_s + DWELL_S)
        clicked = await self._send("answer", tracer, tracer.clicked())
        if clicked is None:
            self._note("features", tracer, "refused", reason="see answer")
        else:
            await asyncio.gather(
                self._look("features", tracer, clicked, lambda: service.has_clicked(tracer)),
                self._look("answer", tracer, clicked, lambda: self._lacks(tracer, tracer.user_id)),
            )
        await _until(due_s + 2 * DWELL_S)
        if not await self._is_shown(tracer):
            reason = "another user's answer did not show the item before"
            self._note("withdrawn", tracer, "untried", reason=reason)
            await service.send([withdrawn(item)])
            return
        gone = await self._send("withdrawn", tracer, withdrawn(item))
        if gone is not None and await self._look(
            "withdrawn", tracer, gone, lambda: self._lacks(tracer, tracer.reader_id)
        ):
            del self._offered[item]

    async def _lacks(self, tracer: Tracer, user_id: str) -> bool | None:
        shown = await self.service.shows(tracer, user_id)
        return None if shown is None else not shown

    async def _is_shown(self, tracer: Tracer) -> bool:
        for _ in range(_TRIES):
            if await self.service.shows(tracer, tracer.reader_id):
                return True
        return False

    async def _send(self, path: str, tracer: Tracer, event: Mapping[str, Any]) -> _Sent | None:
        """Send an event; ``None`` where it was not accepted, which is noted."""
        at_s = time.perf_counter()
        reason = await self.service.send([event])
        accepted_s = time.perf_counter() - at_s
        sent = _Sent(at_s=at_s, accepted_s=accepted_s)
        took_ms = round(1e3 * accepted_s, 3)
        if reason:
            self._note("accepted", tracer, "refused", sent, reason=reason)
            self._note(path, tracer, "refused", sent, reason=reason)
            return None
        self._note("accepted", tracer, "seen", sent, at_least_ms=took_ms, at_most_ms=took_ms)
        return sent

    async def _look(
        self, path: str, tracer: Tracer, sent: _Sent, is_so: Callable[[], Awaitable[bool | None]]
    ) -> bool:
        """Look for a change and note what was seen of it, also when we are cancelled."""
        watched = Watched()
        outcome: Outcome = "interrupted"
        self.watching[path] = self.watching.get(path, 0) + 1
        try:
            is_seen = await watch(is_so, sent.at_s, self.config.watch, watched)
            outcome = "seen" if is_seen else "lost"
        finally:
            self.watching[path] -= 1
            most_s = watched.at_most_s
            waited_s = time.perf_counter() - sent.at_s
            unusable = f"{watched.num_unusable} of {watched.num_asked} answers of no use"
            self._note(
                path, tracer, outcome, sent,
                at_least_ms=round(1e3 * watched.at_least_s, 3),
                at_most_ms=None if most_s is None else round(1e3 * most_s, 3),
                watched_ms=0.0 if most_s is not None else round(1e3 * waited_s, 3),
                num_asked=watched.num_asked, num_unusable=watched.num_unusable,
                reason=unusable if outcome == "lost" and watched.num_unusable else "",
            )  # fmt: skip
        return outcome == "seen"

    def _note(
        self, path: str, tracer: Tracer, outcome: Outcome, sent: _Sent | None = None, **more: Any
    ) -> None:
        at_s = time.perf_counter() if sent is None else sent.at_s
        if outcome == "seen":
            TRACER_SEEN_SECONDS.observe(path, [more["at_most_ms"] / 1e3])
        elif outcome in ("lost", "refused"):
            TRACER_UNSEEN.labels(path=path).inc()
        self.observations.append(
            Observation(
                path=path, tracer=tracer.number, outcome=outcome,
                sent_s=round(at_s - self.begin_s, 4),
                accepted_ms=None if sent is None else round(1e3 * sent.accepted_s, 3), **more,
            )
        )  # fmt: skip

    async def _withdraw(self, items: Sequence[str]) -> list[str]:
        """Withdraw items; give those that were not seen to be gone."""
        if not items:
            return []
        began_s = time.perf_counter()
        left = list(items)

        async def are_gone() -> bool | None:
            nonlocal left
            offered = await self.service.offered()
            if offered is not None:
                left = sorted(set(offered).intersection(items))
            return None if offered is None else not left

        config = self.config.watch
        while await self.service.send([withdrawn(item) for item in items]):
            if time.perf_counter() - began_s > config.timeout_s:
                return left
            await asyncio.sleep(_RETRY_S)
        await watch(are_gone, time.perf_counter(), config, Watched())
        return left


async def _until(at_s: float) -> None:
    await asyncio.sleep(max(at_s - time.perf_counter(), 0.0))
