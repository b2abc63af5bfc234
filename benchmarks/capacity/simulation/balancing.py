"""Who gets the next call: a balancer over servers, some of which it knows to be away.

It learns late. A server that dies is still chosen until ``detect_s`` have passed, one that is back
is not until ``return_s`` have: what health checks and their thresholds come to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Literal, Protocol, TypeVar

from benchmarks.capacity.simulation.draws import Draws
from benchmarks.capacity.simulation.events import Events

Policy = Literal["random", "round-robin", "least-outstanding", "pinned"]
"""``pinned``: one chosen at random, and that one until it is away, as a connection that is kept is
by a balancer of connections."""


class Target(Protocol):
    """What can be chosen."""

    @property
    def waiting(self) -> int:
        """Calls it has not answered."""

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""


T = TypeVar("T", bound=Target)


class Balancer(Generic[T]):
    """Chooses among targets by a policy."""

    def __init__(
        self,
        targets: Sequence[T],
        events: Events,
        draws: Draws,
        *,
        policy: Policy,
        detect_s: float,
        return_s: float,
        gone: Callable[[T], None] = lambda _: None,
    ) -> None:
        """``gone`` is called when a target's death has been noticed."""
        self.targets = list(targets)
        self._events, self._draws, self._policy = events, draws, policy
        self._detect_s, self._return_s, self._gone = detect_s, return_s, gone
        self._known = list(targets)
        self._next = 0
        self._pinned: T | None = None

    def choose(self, *, but: T | None = None) -> T | None:
        """Give a target, another one than ``but`` where there is one; ``None``: all are away."""
        known = self._known
        if but is not None and len(known) > 1:
            known = [target for target in known if target is not but]
        if len(known) <= 1:
            return known[0] if known else None
        if self._policy == "random":
            return known[self._draws.below(len(known))]
        if self._policy == "pinned":
            if self._pinned not in known:
                self._pinned = known[self._draws.below(len(known))]
            return self._pinned
        if self._policy == "round-robin":
            self._next += 1
            return known[self._next % len(known)]
        least = min(target.waiting for target in known)
        equal = [target for target in known if target.waiting == least]
        return equal[0] if len(equal) == 1 else equal[self._draws.below(len(equal))]

    def died(self, target: T) -> None:
        """A target has died: it will be noticed."""
        self._events.after(self._detect_s, self._look, target)

    def revived(self, target: T) -> None:
        """A target answers again: it will be noticed."""
        self._events.after(self._return_s, self._look, target)

    def _look(self, target: T) -> None:
        is_known = target in self._known
        if target.is_alive and not is_known:
            # In their own order, whatever came and went.
            self._known = [t for t in self.targets if t in self._known or t is target]
        elif not target.is_alive and is_known:
            self._known = [t for t in self._known if t is not target]
            self._gone(target)
