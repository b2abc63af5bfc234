"""Runs begin when they are due, once; what was missed goes by the rule; a stop waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from recsys.clock import DAY_MS, HOUR_MS, MINUTE_MS
from recsys.errors import ConfigurationError
from recsys.signal_event import SignalEvent
from training.pipeline.definition import ScheduleRules
from training.pipeline.schedule import (
    BUSY,
    ChildRuns,
    Schedule,
    latest_due_ms,
    next_due_ms,
    parse,
    plan_of,
)

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo | None = None) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.replace(tzinfo=zone or UTC).timestamp() * 1000)


def spelt(moments: list[int], zone: ZoneInfo) -> list[str]:
    return [f"{datetime.fromtimestamp(m / 1000, zone):%m-%d %H:%M %Z}" for m in moments]


def test_a_fixed_hour_that_the_clock_leaves_out_or_has_twice_runs_once_a_day() -> None:
    spring = latest_due_ms("30 2 * * *", BERLIN, at("2026-03-27T12:00"), at("2026-03-31T00:00"), 9)
    assert spelt(spring, BERLIN) == ["03-28 02:30 CET", "03-29 03:00 CEST", "03-30 02:30 CEST"]
    autumn = latest_due_ms("30 2 * * *", BERLIN, at("2026-10-24T12:00"), at("2026-10-27T00:00"), 9)
    assert spelt(autumn, BERLIN) == ["10-25 02:30 CEST", "10-26 02:30 CET"]


def test_forwards_and_backwards_name_the_same_moments() -> None:
    """A year of a line with all kinds of fields, around both changes of the clock."""
    cron, begin, end = "15 1-4 * * 0,3", at("2026-01-01"), at("2027-01-01")
    forwards, moment = [], begin
    while (moment := next_due_ms(cron, BERLIN, moment)) <= end:
        forwards.append(moment)
    assert latest_due_ms(cron, BERLIN, begin, end, 10_000) == forwards


@pytest.mark.parametrize(
    ("catch_up", "runs", "skipped"),
    [("skip", [], 2), ("once", ["04T03:00"], 1), ("all", ["02T03:00", "03T03:00", "04T03:00"], 1)],
)
def test_missed_runs_go_by_the_rule(catch_up, runs, skipped) -> None:
    rules = ScheduleRules(cron="0 3 * * *", catch_up=catch_up, max_catch_up=3)
    plan = plan_of(rules, at("2025-12-20T03:00"), at("2026-01-04T17:00"))
    assert plan.runs_ms == [at(f"2026-01-{run}") for run in runs]
    assert plan.skipped == skipped


def test_a_run_that_is_on_time_is_no_missed_one() -> None:
    rules = ScheduleRules(cron="0 3 * * *", catch_up="skip")
    plan = plan_of(rules, at("2026-01-03T03:00"), at("2026-01-04T03:01"))
    assert plan.runs_ms == [at("2026-01-04T03:00")] and plan.skipped == 0


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "found none"),
        ({"cron": "0 3 * *"}, "five fields"),
        ({"cron": "0 25 * * *"}, "five fields"),
        ({"cron": "* * */20 * 1L"}, "never comes due"),
        ({"cron": "0 3 * * *", "time_zone": "Mars/Olympus"}, "Europe/Berlin"),
    ],
)
def test_a_wrong_line_or_zone_is_said_at_once(rules, said) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse(ScheduleRules(**rules))


class House:
    """A schedule with a clock that is set by hand and runs that are only counted."""

    def __init__(self, folder: Path, **rules) -> None:
        self.folder = folder
        self.now_ms = at("2026-01-01T12:00")
        self.codes: list[int] = []
        self.runs: list[int] = []
        self.rules = ScheduleRules(**({"cron": "0 * * * *"} | rules))

    def open(self) -> Schedule:
        stop = SignalEvent()
        stop.wait = lambda timeout=None: False  # type: ignore[method-assign]  nobody waits here
        return Schedule(
            self.rules, self.folder, run=self._run, clock_ms=lambda: self.now_ms,
            say=lambda text: None, stop=stop,
        )  # fmt: skip

    def _run(self) -> int:
        self.runs.append(self.now_ms)
        return self.codes.pop(0) if self.codes else 0


def test_each_moment_is_run_for_once_also_after_a_restart(tmp_path: Path) -> None:
    house = House(tmp_path)
    schedule = house.open()
    schedule.step()
    assert house.runs == []
    house.now_ms += HOUR_MS
    schedule.step()
    schedule.step()
    house.open().step()
    assert len(house.runs) == 1
    house.now_ms += 5 * HOUR_MS
    again = house.open()
    again.step()
    again.step()
    assert len(house.runs) == 2  # once for the five


def test_a_schedule_killed_in_a_run_takes_it_up_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    schedule = house.open()
    house.now_ms += HOUR_MS

    def die() -> int:
        raise KeyboardInterrupt

    schedule._run = die  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        schedule.step()
    house.open().step()
    assert len(house.runs) == 1


def test_a_failed_run_is_dealt_with_and_a_busy_one_is_not(tmp_path: Path) -> None:
    house = House(tmp_path)
    schedule = house.open()
    house.now_ms += HOUR_MS
    house.codes = [BUSY, 2]
    schedule.step()
    schedule.step()
    schedule.step()
    assert len(house.runs) == 2


def test_another_line_begins_anew_from_now(tmp_path: Path) -> None:
    House(tmp_path).open()
    house = House(tmp_path, cron="30 * * * *")
    house.now_ms += 3 * DAY_MS
    house.open().step()
    assert house.runs == []


def test_a_clock_that_was_far_ahead_does_not_stop_the_schedule_for_good(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.now_ms += 900 * DAY_MS
    house.open()
    house.now_ms -= 900 * DAY_MS
    schedule = house.open()
    house.now_ms += HOUR_MS + MINUTE_MS
    schedule.step()
    assert len(house.runs) == 1


def test_a_stop_waits_for_the_run_and_a_second_one_does_not(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    code = (
        "import pathlib, signal, sys, time\n"
        f"marks = pathlib.Path({str(marks)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "marks.write_text('begun'); time.sleep(float(sys.argv[1])); marks.write_text('ended')\n"
    )

    def stopped(*, seconds: float, stops: int) -> tuple[int, str]:
        marks.unlink(missing_ok=True)
        runs = ChildRuns([], drain_s=20)
        runs._command = [sys.executable, "-c", code, str(seconds)]
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(runs.run()))
        thread.start()
        while not marks.exists():
            time.sleep(0.01)
        for _ in range(stops):
            runs.stop()
        thread.join()
        return codes[0], marks.read_text()

    assert stopped(seconds=0.5, stops=1) == (0, "ended")
    assert stopped(seconds=60, stops=2) == (143, "begun")


def test_the_command_ends_politely_while_it_waits(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "training.pipeline.cli", "schedule", "--cron", "0 0 1 1 *"],
        env=os.environ | {"RECSYS_STATE_DIR": str(tmp_path)},
        cwd=Path(__file__).resolve().parents[3], stderr=subprocess.PIPE,
    )  # fmt: skip
    remembered = tmp_path / "pipeline" / "schedule.json"
    while not remembered.exists():
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0 and b"next run" in said
    assert json.loads(remembered.read_text())["cron"] == "0 0 1 1 *"
