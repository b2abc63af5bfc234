"""A circuit breaker: who has not answered of late is asked by one call at a time, then by all.

::

    closed ── failures in a row, or a share of many ──► open ── a while ──► half-open
     │ ▲                                                  ▲                  ▲ │ one probe at a time
     │ └──────────────── probes answered ─────────────────┼──────────────────┼─┤
     │                                                    └── a probe failed ┼─┘
     └── no answer at all for much longer than usual: what waits is the probe ┘

While it is open nobody waits for what will not come: a dead server costs a request nothing, where
it would have cost its share of the deadline.

A server that stands still fails nobody until a deadline has passed, and by then whoever came
meanwhile waits for it. So silence is taken as a sign by itself: calls wait, and for several times
what calls take nobody at all was answered. The calls that wait are the probe. One answer closes it
again at once, so a pause that was no failure costs lower rungs for its own length.

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
from recsys.resilience.recent_times import RecentTimes
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
    silence_times: float = 4.0
    """Of what 95 % of the latest calls took at most: no answer to anybody for so long is
    silence."""
    min_silence_s: float = 0.2
    """And never less. Half a deadline: pauses of a collector or of a machine that is busy are
    mostly shorter, and the places of an API process (``admission.py``) bridge it."""
    min_calls_known: int = 50
    """Before so many answers nothing is silence: the first calls of a server are slow."""


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
        self._probes_left = config.probes_to_close
        """Answers that are wanted before all may ask again."""
        self._times = RecentTimes(quantile=0.95, min_times=config.min_calls_known, remembered=500)
        self._heard_s = clock_s()
        """When it last answered."""
        self._is_silent = False
        """Whether it is half-open for its silence, and not for a pause that is over."""
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
            raise self.refusal(stage)
        self._enter("half-open")
        self._probe_at_s = now_s + self._config.probe_timeout_s

    def refusal(self, stage: str) -> CircuitOpenError:
        """Say that nobody is asked."""
        return CircuitOpenError(
            f"{stage}: {self.name} has not answered of late; it is asked again shortly",
            stage=stage,
        )

    @property
    def silence_s(self) -> float | None:
        """How long without any answer is silence; ``None`` while too little is known."""
        usual_s = self._times.usual_s
        if usual_s is None:
            return None
        return max(self._config.min_silence_s, self._config.silence_times * usual_s)

    def is_silent(self, *, waited_s: float) -> bool:
        """Take in that a call waits, and for how long; tells whether others should wait no more.

        They should not when ``silence_s`` has gone by since the call began and since the last
        answer to anybody. The call itself is to go on: ``answered`` or ``failed`` must follow.
        """
        silence_s, now_s = self.silence_s, self._clock_s()
        if silence_s is None or min(waited_s, now_s - self._heard_s) < silence_s:
            return False
        if self._state == "closed":
            BREAKER_OPENED.labels(self.name).inc()
            logger.warning("%s has not answered anybody for %.2f s", self.name, waited_s)
            self._enter("half-open")
            self._is_silent = True
            self._probes_left = 1
            self._probe_at_s = now_s + self._config.probe_timeout_s
        return True

    def ask_again(self) -> None:
        """Let the next call be a probe at once: there is a sign that the server is back."""
        self._probe_at_s = 0.0

    def answered(self, *, waited_s: float) -> None:
        """Take in a call that was answered after ``waited_s`` seconds."""
        self._count(failed=False)
        self._in_a_row = 0
        self._times.took(waited_s)
        self._heard_s = self._clock_s()
        if self._state == "closed":
            return
        self._probes_left -= 1
        self._probe_at_s = 0.0
        if self._probes_left <= 0:
            self._pause_s = self._config.open_s
            self._calls = self._failures = 0.0
            self._is_silent = False
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
            if not self._is_silent:
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
        self._is_silent = False
        self._probes_left = self._config.probes_to_close
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
