"""A circuit breaker: who has not answered of late is asked by one call at a time, then by all.

::

    closed ── failures in a row, or a share of many ──► open ── a while ──► half-open
       ▲                                                  ▲                    │ one probe at a time
       └──────────────── probes answered ─────────────────┼────────────────────┤
                                                          └── a probe failed ──┘

While it is open nobody waits for what will not come: a dead server costs a request nothing, where
it would have cost its share of the deadline.

Source: Nygard, *Release It!* (2007), ch. 5. Here a probe is a real call, since a server may answer
a ping and hang on everything else; and being late counts only after a time in which a healthy
server would have answered: a caller in a hurry says nothing about it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from recsys.errors import CircuitOpenError, DeadlineExceededError, StageError
from recsys.telemetry import BREAKER_OPENED, BREAKER_STATE

logger = logging.getLogger(__name__)

State = Literal["closed", "half-open", "open"]
_VALUE: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}


@dataclass(frozen=True, kw_only=True)
class BreakerConfig:
    """When a breaker opens, and for how long."""

    failures_in_a_row: int = 3
    """Calls, each of a whole batch: one lost packet opens nothing, a dead server does at once."""
    failure_share: float = 0.5
    """Of the calls of the last seconds, where they are at least ``min_calls``."""
    min_calls: float = 20.0
    memory_s: float = 5.0
    """Time in which what was counted for the share loses most of its weight (1/e is left)."""
    patience_s: float = 0.05
    """A late answer counts as a failure only after this long."""
    open_s: float = 0.25
    """First pause, doubled after each probe that failed."""
    max_open_s: float = 2.0
    """Longest pause: bounds how long the server is back before it is asked again."""
    probes_to_close: int = 2
    probe_timeout_s: float = 3.0
    """A probe nobody has heard of for so long makes room for the next."""


class CircuitBreaker:
    """Counts what became of the calls of one server. Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        config: BreakerConfig = BreakerConfig(),
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``name``: of the server, in metrics and messages."""
        self.name = name
        self._config = config
        self._clock_s = clock_s
        self._state: State = "closed"
        self._in_a_row = 0
        self._calls = self._failures = 0.0
        self._counted_s = clock_s()
        self._pause_s = config.open_s
        self._probe_at_s = 0.0
        """From when the next probe may go."""
        self._answered_probes = 0
        BREAKER_STATE.labels(name).set(_VALUE["closed"])

    @property
    def state(self) -> State:
        """Closed: all calls go. Open: none does. Half-open: one at a time."""
        return self._state

    def require(self, stage: str) -> None:
        """Let a call go, or raise CircuitOpenError at once.

        Who was let go in half-open is the probe; ``answered`` or ``failed`` must follow.
        """
        if self._state == "closed":
            return
        now_s = self._clock_s()
        if now_s < self._probe_at_s:
            raise CircuitOpenError(
                f"{stage}: {self.name} has not answered of late; it is asked again shortly",
                stage=stage,
            )
        self._enter("half-open")
        self._probe_at_s = now_s + self._config.probe_timeout_s

    def ask_again(self) -> None:
        """Let the next call be a probe at once: there is a sign that the server is back."""
        self._probe_at_s = 0.0

    def answered(self) -> None:
        """Take in a call that was answered."""
        self._count(failed=False)
        self._in_a_row = 0
        if self._state == "closed":
            return
        self._answered_probes += 1
        self._probe_at_s = 0.0
        if self._answered_probes >= self._config.probes_to_close:
            self._pause_s = self._config.open_s
            self._calls = self._failures = 0.0
            self._enter("closed")

    def failed(self, error: StageError, *, waited_s: float) -> None:
        """Take in a call that failed after ``waited_s`` seconds."""
        if isinstance(error, DeadlineExceededError) and waited_s < self._config.patience_s:
            if self._state == "half-open":
                self._probe_at_s = 0.0  # it said nothing: the next one may try
            return
        self._count(failed=True)
        self._in_a_row += 1
        if self._state == "half-open":
            self._pause_s = min(2 * self._pause_s, self._config.max_open_s)
            self._open()
        elif self._state == "closed" and (
            self._in_a_row >= self._config.failures_in_a_row
            or (
                self._calls >= self._config.min_calls
                and self._failures >= self._config.failure_share * self._calls
            )
        ):
            BREAKER_OPENED.labels(self.name).inc()
            logger.warning("%s is not asked for a while: %s", self.name, error)
            self._open()

    def _open(self) -> None:
        self._enter("open")
        self._answered_probes = 0
        self._probe_at_s = self._clock_s() + self._pause_s

    def _count(self, *, failed: bool) -> None:
        now_s = self._clock_s()
        kept = math.exp((self._counted_s - now_s) / self._config.memory_s)
        self._counted_s = now_s
        self._calls = self._calls * kept + 1.0
        self._failures = self._failures * kept + failed

    def _enter(self, state: State) -> None:
        if state != self._state:
            if state == "closed":
                logger.info("%s answers again", self.name)
            self._state = state
            BREAKER_STATE.labels(self.name).set(_VALUE[state])
