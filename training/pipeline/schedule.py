"""When runs begin, what becomes of those that were missed, and how it all stops.

A moment counts as dealt with when its run has ended, whatever came of it; until then it is due.
That moment is on disk (``schedule.json``), so a schedule that was killed takes up the run it was
in, and one that was down for a week knows what it missed.

Each run is a process of its own: what a run leaves in memory goes with it, and a schedule that is
stopped can wait for it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, ValidationError

from recsys.clock import HOUR_MS, MINUTE_MS
from recsys.errors import ConfigurationError
from recsys.events.durable_files import make_directory, write_durably
from recsys.signal_event import SignalEvent
from training.pipeline.definition import ScheduleRules

ON_TIME_MS = 2 * MINUTE_MS
"""Later than this a run was missed, and the catch-up rule decides."""
_LONGEST_SLEEP_S = 30.0
"""The wall clock may be set, and a laptop may sleep: it is looked at again after this."""
BUSY_PAUSE_S = 30.0
"""Pause after another run was found at work."""
BUSY = 4
"""Exit code of ``recsys pipeline run`` then."""


class _Remembered(BaseModel):
    """What is on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str
    time_zone: str
    dealt_with_ms: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done now."""

    runs_ms: list[int]
    """Moments to run for, in order."""
    skipped: int
    """Moments that are passed over, all before those."""


def parse(rules: ScheduleRules) -> tuple[str, ZoneInfo]:
    """Give the cron line and the zone, both understood.

    Raises:
        ConfigurationError: when one of them is missing or wrong, or the line never comes due.
    """
    if not rules.cron:
        raise ConfigurationError(
            'wanted a cron line, found none; give --cron "0 3 * * *" or [schedule] cron in the file'
        )
    try:
        zone = ZoneInfo(rules.time_zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigurationError(
            f"wanted a time zone such as Europe/Berlin, found {rules.time_zone!r}"
        ) from error
    try:
        next(CronSim(rules.cron, datetime.now(zone)))
    except CronSimError as error:
        raise ConfigurationError(
            f"wanted five fields as in crontab(5), found {rules.cron!r}: {error}"
        ) from error
    except StopIteration:
        raise ConfigurationError(f"{rules.cron!r} never comes due") from None
    return rules.cron, zone


def next_due_ms(cron: str, zone: ZoneInfo, after_ms: int) -> int:
    """Give the first moment due after ``after_ms``."""
    return _ms(next(CronSim(cron, _moment(after_ms, zone))))


def latest_due_ms(cron: str, zone: ZoneInfo, after_ms: int, until_ms: int, limit: int) -> list[int]:
    """Give the latest moments due after ``after_ms`` and not after ``until_ms``, in order."""
    found: list[int] = []
    # Backwards from just after the end, so that a year of missed minutes costs no more than a day.
    for moment in islice(CronSim(cron, _moment(until_ms + 1, zone), reverse=True), limit + 1):
        due = _ms(moment)
        if due <= after_ms or len(found) == limit:
            break
        if due <= until_ms:
            found.append(due)
    return found[::-1]


def plan_of(rules: ScheduleRules, dealt_with_ms: int, now_ms: int) -> Plan:
    """Say which moments since the last one dealt with are to be run for.

    The latest moment is on time when it is no older than ``ON_TIME_MS``; every other was missed.
    """
    cron, zone = parse(rules)
    wanted = {"skip": 1, "once": 1, "all": rules.max_catch_up}[rules.catch_up]
    due = latest_due_ms(cron, zone, dealt_with_ms, now_ms, wanted + 1)
    if not due:
        return Plan(runs_ms=[], skipped=0)
    runs = due[-wanted:]
    if rules.catch_up == "skip" and now_ms - due[-1] > ON_TIME_MS:
        runs = []
    return Plan(runs_ms=runs, skipped=len(due) - len(runs))


class Schedule:
    """Runs when it is time, until it is told to stop."""

    def __init__(
        self,
        rules: ScheduleRules,
        folder: Path,
        *,
        run: Callable[[], int],
        clock_ms: Callable[[], int],
        say: Callable[[str], None],
        stop: SignalEvent,
    ) -> None:
        """Take up what ``folder`` remembers; another cron line or zone begins anew from now.

        ``run`` gives the exit code of a run; ``stop`` ends the schedule once the run that is at
        work has ended.
        """
        self._cron, self._zone = parse(rules)
        self._rules, self._run, self._clock_ms, self._say = rules, run, clock_ms, say
        self._stop = stop
        self._path = folder / "schedule.json"
        make_directory(folder)
        self._dealt_with_ms = self._remembered()

    def forever(self) -> None:
        """Work until ``stop`` is set."""
        while not self._stop.is_set():
            self.step()

    def step(self) -> None:
        """Do what is due, else wait a little for what comes next."""
        now_ms = self._clock_ms()
        plan = plan_of(self._rules, self._dealt_with_ms, now_ms)
        if plan.skipped:
            kept = f", run {len(plan.runs_ms)}" if plan.runs_ms else ""
            more = " or more" if plan.skipped > 1 or self._rules.catch_up == "all" else ""
            self._say(f"missed {plan.skipped}{more}: skip those{kept} ({self._rules.catch_up})")
        if not plan.runs_ms:
            if plan.skipped:
                self._deal_with(now_ms)
            upcoming = next_due_ms(self._cron, self._zone, now_ms)
            self._stop.wait(min(max(upcoming - now_ms, 0) / 1000 + 0.01, _LONGEST_SLEEP_S))
            return
        for due_ms in plan.runs_ms:
            if self._stop.is_set():
                return
            self._say(f"run due {self._spelt(due_ms)}")
            code = self._run()
            if code == BUSY:
                self._say(f"another run is at work; looked at again in {BUSY_PAUSE_S:g} s")
                self._stop.wait(BUSY_PAUSE_S)
                return
            if self._stop.is_set() and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
                return  # it was stopped with us: it is taken up again
            self._say(f"run due {self._spelt(due_ms)} ended with code {code}")
            self._deal_with(due_ms)

    def _deal_with(self, moment_ms: int) -> None:
        self._dealt_with_ms = moment_ms
        remembered = _Remembered(
            cron=self._cron, time_zone=str(self._zone), dealt_with_ms=moment_ms
        )
        write_durably(self._path, remembered.model_dump_json().encode())

    def _remembered(self) -> int:
        now_ms = self._clock_ms()
        try:
            found = _Remembered.model_validate_json(self._path.read_bytes())
        except (FileNotFoundError, ValidationError):
            found = None
        is_same = found is not None and (found.cron, found.time_zone) == (
            self._cron, str(self._zone)
        )  # fmt: skip
        if found is None or not is_same or found.dealt_with_ms > now_ms + HOUR_MS:
            self._deal_with(now_ms)
            self._say(f"next run {self._spelt(next_due_ms(self._cron, self._zone, now_ms))}")
            return now_ms
        return found.dealt_with_ms

    def _spelt(self, moment_ms: int) -> str:
        return f"{_moment(moment_ms, self._zone):%Y-%m-%d %H:%M %Z}"


class ChildRuns:
    """Runs as child processes that outlive a polite stop for a while."""

    def __init__(self, arguments: Sequence[str], *, drain_s: float) -> None:
        """``arguments`` are those of ``recsys pipeline run``."""
        self._command = [sys.executable, "-m", "training.pipeline.cli", "run", *arguments]
        self._drain_s = drain_s
        self._child: subprocess.Popen[bytes] | None = None
        self._stop = SignalEvent()

    def run(self) -> int:
        """Run once and give the exit code, negative for a signal."""
        # A session of its own: a stop that a terminal sends to all of us is ours to pass on.
        with subprocess.Popen(self._command, start_new_session=True) as child:
            self._child = child
            while child.poll() is None and not self._stop.is_set():
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.2)
            if child.poll() is None:
                try:
                    child.wait(timeout=self._drain_s)
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGTERM)
            return child.wait()

    def stop(self) -> None:
        """Give the run at work ``drain_s`` more; called twice, it is told to stop at once."""
        if self._stop.is_set() and self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        self._stop.set()


def _moment(moment_ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).astimezone(zone)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
