"""The servers behind the API: Redis, and model servers that compute batches.

Both answer by calling ``reply(batch, is_answered)`` where the reply leaves them; the way there and
back is the network's. A dead one refuses at once (its machine is there and says so) or is silent
(the machine is gone), and a call it was at is cut or never answered in the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any, Protocol

from benchmarks.capacity.simulation.cores import Machine, Thread
from benchmarks.capacity.simulation.profile import ModelCosts, ServerCosts
from recsys.inference.rank_time import RankTime

Reply = Callable[[Any, bool], None]


class Batch(Protocol):
    """What a server is asked: it looks at no more than this."""

    users: int
    """In the call."""
    end_s: float
    """By when most of its callers want the answer."""
    is_ranked: bool
    """Set by a model server: whether its ranker was asked."""


class Server:
    """One process that answers calls, one after the other."""

    def __init__(
        self, name: str, machine: Machine, costs: ServerCosts, *, network_s: float
    ) -> None:
        self.name = name
        self._events = machine.events
        self.thread = Thread(machine, cold=costs.warmth.cold, cooling_s=costs.warmth.cooling_s)
        self._work = costs.work
        self._network_s = network_s
        self._refuses = True
        """Dead, whether it says so."""
        self._at: dict[int, tuple[Batch, Reply]] = {}
        self.calls = 0

    @property
    def threads(self) -> list[Thread]:
        """All of it, for who counts what it used."""
        return [self.thread]

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self.thread.is_alive

    @property
    def waiting(self) -> int:
        """Calls it has not answered."""
        return len(self._at)

    def ask(self, batch: Batch, reply: Reply) -> None:
        """Take a call that has just arrived."""
        if not self.is_alive:
            if self._refuses:
                self._events.after(self._network_s, _refuse, (batch, reply))
            return
        self.calls += 1
        number = self.calls
        self._at[number] = (batch, reply)
        self._begin(number, batch)

    def kill(self, *, silently: bool) -> None:
        """Let it die with all that it was at."""
        cut, self._at = list(self._at.values()), {}
        self._refuses = not silently
        for thread in self.threads:
            thread.kill()
        if not silently:
            for call in cut:
                self._events.after(self._network_s, _refuse, call)

    def revive(self) -> None:
        """Let it answer again."""
        for thread in self.threads:
            thread.revive()

    def _begin(self, number: int, batch: Batch) -> None:
        self.thread.do(self._work(batch.users), self._answer, number)

    def _answer(self, number: int) -> None:
        batch, reply = self._at.pop(number)
        reply(batch, True)


class ModelServer(Server):
    """Triton with instances of one model, each a process that computes one batch at a time.

    What waits when an instance comes free is computed together, up to ``max_batch_size`` users, as
    ``dynamic_batching`` with no delay does. The ranker is left out where ``RankTime``, the code
    that runs in the real server, says that its callers have no time for it.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        costs: ModelCosts,
        *,
        network_s: float,
        dispersion: Callable[[], float],
        instances: int = 1,
        max_batch_size: int = 128,
    ) -> None:
        front = ServerCosts(work=costs.front, warmth=costs.front_warmth)
        super().__init__(name, machine, front, network_s=network_s)
        self._costs = costs
        self._dispersion = dispersion
        self._max_batch_size = max_batch_size
        warmth = costs.warmth
        self.instances = [
            Thread(machine, cold=warmth.cold, cooling_s=warmth.cooling_s) for _ in range(instances)
        ]
        self._free = list(self.instances)
        self._queue: deque[tuple[int, Batch]] = deque()
        self._rank_time = RankTime()
        self.executions: dict[int, int] = {}
        """How many computations there were, by users in them."""
        self.unranked = 0
        """Users whose ranker was left out."""

    @property
    def threads(self) -> list[Thread]:
        """See ``Server``."""
        return [self.thread, *self.instances]

    def kill(self, *, silently: bool) -> None:
        """See ``Server``."""
        super().kill(silently=silently)
        self._queue.clear()

    def revive(self) -> None:
        """See ``Server``."""
        super().revive()
        self._free = list(self.instances)
        self._rank_time = RankTime()

    def _begin(self, number: int, batch: Batch) -> None:
        self.thread.do(self._costs.front(batch.users), self._queued, number)

    def _queued(self, number: int) -> None:
        self._queue.append((number, self._at[number][0]))
        self._compute()

    def _compute(self) -> None:
        while self._free and self._queue:
            thread = self._free.pop()
            taken: list[tuple[int, Batch]] = []
            users = 0
            while self._queue and users + self._queue[0][1].users <= max(
                self._max_batch_size, self._queue[0][1].users if not taken else 0
            ):
                taken.append(self._queue.popleft())
                users += taken[-1][1].users
            self.executions[users] = self.executions.get(users, 0) + 1
            work_s = self._costs.batch(users) * self._dispersion()
            rank_s = work_s * self._costs.rank_share
            thread.do(work_s - rank_s, self._retrieved, (thread, taken, users, rank_s))

    def _retrieved(self, what: tuple[Thread, list[tuple[int, Batch]], int, float]) -> None:
        thread, taken, users, rank_s = what
        now_s = self._events.now_s
        left_s = (
            taken[0][1].end_s if len(taken) == 1 else median(batch.end_s for _, batch in taken)
        ) - now_s
        if self._rank_time.fits(users, left_s):
            thread.do(rank_s, self._ranked, (thread, taken, users, now_s), 1)
        else:
            self.unranked += users
            self._end(thread, taken, ranked=False)

    def _ranked(self, what: tuple[Thread, list[tuple[int, Batch]], int, float]) -> None:
        thread, taken, users, began_s = what
        self._rank_time.took(users, self._events.now_s - began_s)
        self._end(thread, taken, ranked=True)

    def _end(self, thread: Thread, taken: list[tuple[int, Batch]], *, ranked: bool) -> None:
        self._free.append(thread)
        for number, _ in taken:
            batch, reply = self._at.pop(number)
            batch.is_ranked = ranked
            reply(batch, True)
        # The thread still counts as busy while it says so; the next batch begins behind this one.
        self._compute()


def _refuse(call: tuple[Batch, Reply]) -> None:
    call[1](call[0], False)
