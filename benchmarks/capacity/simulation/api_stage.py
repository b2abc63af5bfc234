"""A stage of an API process that asks a server: who waits, together with whom, and how long.

Reading features is one, calling the model another. The breaker is the class that runs in the real
process; gathering is its batcher's rule without asyncio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from benchmarks.capacity.simulation.events import Events
from benchmarks.capacity.simulation.gathering import Gathering
from recsys.errors import CircuitOpenError, DeadlineExceededError, StageError
from recsys.inference.batching import BatchingConfig
from recsys.resilience.breaker import CircuitBreaker
from recsys.resilience.silence import AGAIN_S

_LATE = DeadlineExceededError("no answer in time", stage="simulated")
_BROKEN = StageError("connection refused", stage="simulated")


class Visit:
    """One request at one API process."""

    __slots__ = (
        "answered",
        "batch",
        "began_s",
        "caller",
        "entered_s",
        "label",
        "stage",
        "stage_end_s",
    )

    def __init__(self, caller: Any, answered: Callable[[Any, str], None]) -> None:
        self.caller = caller
        self.answered = answered
        self.stage: Stage | None = None
        """The one it waits in."""
        self.began_s = 0.0
        self.entered_s = self.stage_end_s = 0.0
        self.label = ""
        self.batch: Together | None = None


class Together:
    """Visits whose read or model call travels as one."""

    __slots__ = ("begun_s", "end_s", "is_open", "is_ranked", "left", "users", "visits")

    def __init__(self, visits: list[Visit], end_s: float) -> None:
        self.visits = visits
        self.users = len(visits)
        self.left = len(visits)
        self.begun_s = 0.0
        self.end_s = end_s
        self.is_open = True
        """Whether its slot is still taken."""
        self.is_ranked = True
        for visit in visits:
            visit.batch = self


class Stage:
    """One stage in one life of a process."""

    def __init__(
        self,
        events: Events,
        breaker: CircuitBreaker,
        config: BatchingConfig,
        *,
        send: Callable[[list[Visit]], None],
        give_up: Callable[[Visit], None],
    ) -> None:
        """``send`` begins a batch; ``give_up`` answers a visit without this stage."""
        self._events = events
        self._breaker = breaker
        self._give_up = give_up
        self._waiting: Gathering[Visit] = Gathering(
            send, config, is_wanted=lambda visit: visit.stage is self
        )
        self._late: deque[Visit] = deque()
        self._is_over = False

    def end(self) -> None:
        """The process has died: nothing that was to come does anything."""
        self._is_over = True

    def refuses(self) -> bool:
        """Whether the breaker lets nobody in just now; one who is let in may be its probe."""
        if self._breaker.state != "closed":
            try:
                self._breaker.require("simulated")
            except CircuitOpenError:
                return True
        return False

    def enter(self, visit: Visit, end_s: float) -> None:
        """Let it wait until ``end_s`` at most."""
        visit.stage, visit.stage_end_s, visit.entered_s = self, end_s, self._events.now_s
        self._late.append(visit)
        if len(self._late) == 1:
            self._events.at(end_s, self._look_late, None)
        self._waiting.add(visit)

    def asked(self, batch: Together) -> None:
        """A server has been asked: look after a while whether it has fallen silent."""
        silence_s = self._breaker.silence_s
        if silence_s is not None:
            self._events.after(silence_s, self._look_silent, batch)

    def failed(self, batch: Together) -> None:
        """There is no server, or it has broken off."""
        batch.is_open = False
        self._breaker.failed(_BROKEN, waited_s=self._events.now_s - batch.begun_s)
        self._release(batch.visits)
        self._waiting.freed()

    def answered(self, batch: Together) -> None:
        """The server's answer has been taken apart; ``freed`` must follow."""
        self._breaker.answered(waited_s=self._events.now_s - batch.begun_s)

    def freed(self) -> None:
        """The next batch may go."""
        self._waiting.freed()

    def _release(self, visits: list[Visit]) -> None:
        for visit in visits:
            if visit.stage is self:
                self._give_up(visit)

    def _look_late(self, _: None) -> None:
        if self._is_over:
            return
        late, now_s = self._late, self._events.now_s
        while late and (late[0].stage is not self or late[0].stage_end_s <= now_s):
            visit = late.popleft()
            if visit.stage is self:
                self._too_late(visit)
        if late:
            self._events.at(late[0].stage_end_s, self._look_late, None)

    def _too_late(self, visit: Visit) -> None:
        batch = visit.batch
        self._give_up(visit)
        if batch is None or not batch.is_open or visit not in batch.visits:
            return
        batch.left -= 1
        if not batch.left:
            self._cut(batch)

    def _cut(self, batch: Together) -> None:
        """The last one who wanted the answer of a batch has waited for as long as it could."""
        if self._is_over or not batch.is_open:
            return
        batch.is_open = False
        self._breaker.failed(_LATE, waited_s=self._events.now_s - batch.begun_s)
        self._waiting.freed()

    def _look_silent(self, batch: Together) -> None:
        if self._is_over or not batch.is_open:
            return
        if not self._breaker.is_silent(waited_s=self._events.now_s - batch.begun_s):
            self._events.after(AGAIN_S, self._look_silent, batch)
            return
        # Those who made it wait no more; it goes on, and ends when they would have given up.
        ends_s = [visit.stage_end_s for visit in batch.visits if visit.stage is self]
        self._events.at(max(ends_s, default=self._events.now_s), self._cut, batch)
        self._release([*batch.visits, *self._waiting.release()])
