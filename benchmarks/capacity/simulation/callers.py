"""Who asks the cluster: at given moments, once more when refused, and only for so long."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.capacity.simulation.api_process import ApiProcess
from benchmarks.capacity.simulation.api_stage import Visit
from benchmarks.capacity.simulation.balancing import Balancer
from benchmarks.capacity.simulation.cores import Thread
from benchmarks.capacity.simulation.draws import Draws
from benchmarks.capacity.simulation.events import Events
from benchmarks.capacity.simulation.outcomes import FAILED, LATE, Outcomes
from benchmarks.capacity.simulation.shape import Shape


class Request:
    """One request, until it has ended."""

    __slots__ = ("api", "due_s", "has_ended", "tries")

    def __init__(self, due_s: float) -> None:
        self.due_s = due_s
        self.tries = 0
        self.has_ended = False
        self.api: ApiProcess | None = None


class Callers:
    """All who ask, as one; ``send`` begins."""

    def __init__(
        self,
        events: Events,
        outcomes: Outcomes,
        apis: Sequence[ApiProcess],
        draws: Draws,
        shape: Shape,
        *,
        network_s: float,
        generator: Thread | None,
        generator_s: float,
    ) -> None:
        """``generator`` spends ``generator_s`` of its machine on each request; None: nothing."""
        self.num_open = 0
        """Requests that are not answered."""
        self._events, self._outcomes, self._shape = events, outcomes, shape
        self._network_s = network_s
        self._generator, self._generator_s = generator, generator_s
        self._timeouts: deque[Request] = deque()
        self._silent: dict[str, list[Request]] = {}
        self._balancer = Balancer(
            apis, events, draws, policy=shape.policy, detect_s=shape.detect_s,
            return_s=shape.return_s, gone=self._gone,
        )  # fmt: skip

    def send(self, due_s: NDArray[np.float64]) -> None:
        """Ask at rising moments."""
        self._due = due_s.tolist()
        self._next = 0
        if self._due:
            self._events.at(self._due[0], self._arrive)

    def lost(self, api: ApiProcess, visits: Sequence[Visit], *, silently: bool) -> None:
        """A process died with what it was at work on; silently: nobody is told of it."""
        self._balancer.died(api)
        for visit in visits:
            if silently:
                self._silent.setdefault(api.name, []).append(visit.caller)
            else:
                self._events.after(self._network_s, self._again, visit.caller)

    def revived(self, api: ApiProcess) -> None:
        """A process is back."""
        self._balancer.revived(api)

    def _arrive(self, _: object) -> None:
        due, number = self._due, self._next
        request = Request(due[number])
        self._next = number + 1
        if self._next < len(due):
            self._events.at(due[self._next], self._arrive)
        self.num_open += 1
        self._timeouts.append(request)
        if len(self._timeouts) == 1:
            self._events.after(self._shape.timeout_s, self._look_late)
        if self._generator is not None:
            self._generator.do(self._generator_s / 2, self._send, request)
        else:
            self._send(request)

    def _send(self, request: Request) -> None:
        api = self._balancer.choose(but=request.api)
        request.tries += 1
        request.api = api
        if api is None:
            self._end(request, FAILED)
        else:
            self._events.after(self._network_s, self._reach, (request, api))

    def _reach(self, what: tuple[Request, ApiProcess]) -> None:
        request, api = what
        if api.is_alive:
            api.take(Visit(request, self._answered))
        elif api.refuses:
            self._again(request)
        # else it is silent: noticed by the balancer, or by the caller's timeout

    def _answered(self, visit: Visit, label: str) -> None:
        self._events.after(self._network_s, self._arrived, (visit.caller, label))

    def _arrived(self, what: tuple[Request, str]) -> None:
        if self._generator is not None:
            self._generator.do(self._generator_s / 2, self._read, what)
        else:
            self._read(what)

    def _read(self, what: tuple[Request, str]) -> None:
        self._end(*what)

    def _again(self, request: Request) -> None:
        """A connection was refused or lost."""
        if request.has_ended:
            return
        if request.tries <= self._shape.retries:
            self._outcomes.retries += 1
            self._send(request)
        else:
            self._end(request, FAILED)

    def _end(self, request: Request, label: str) -> None:
        if request.has_ended:
            return
        request.has_ended = True
        self.num_open -= 1
        self._outcomes.end(request.due_s, self._events.now_s, label)

    def _look_late(self, _: object) -> None:
        timeouts, timeout_s = self._timeouts, self._shape.timeout_s
        while timeouts and (
            timeouts[0].has_ended or timeouts[0].due_s + timeout_s <= self._events.now_s
        ):
            self._end(timeouts.popleft(), LATE)
        if timeouts:
            self._events.at(timeouts[0].due_s + timeout_s, self._look_late)

    def _gone(self, api: ApiProcess) -> None:
        """The balancer has noticed: what it sent there is sent elsewhere."""
        for request in self._silent.pop(api.name, []):
            self._again(request)
