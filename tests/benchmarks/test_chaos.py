"""How an experiment is judged: what callers saw, against what is documented."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.loadtest.chaos.__main__ import judge, parse_args
from benchmarks.loadtest.chaos.kept import LIMIT, greatest_kept
from benchmarks.loadtest.chaos.overload import back_after_s, figures
from benchmarks.loadtest.chaos.watch import Seen, Watch
from benchmarks.loadtest.greatest_rate import Step
from recsys.errors import RecsysError

KEPT = {
    "acknowledged": 9, "not_acknowledged": 0, "lost_from_the_event_log": 0,
    "lost_from_features": 0, "counted_twice": 0, "in_the_log_twice": 0,
}  # fmt: skip


def quiet(until_s: float = 20.0) -> list[Seen]:
    """A full answer every 10 ms, each after 5 ms."""
    return [Seen(n / 100, 0.005, "full") for n in range(int(until_s * 100))]


def problems(part: str, extra: list[Seen], events: dict[str, int] = KEPT) -> list[str]:
    found = judge(part, "kill", Watch(quiet() + extra), events, 4.0, 5.0)
    return found["problems"]  # type: ignore[return-value]


def test_a_lower_rung_while_a_part_is_away_is_fine_and_after_that_counts_as_recovery() -> None:
    assert problems("redis", [Seen(4.5, 0.01, "similar"), Seen(9.0, 0.01, "popular")]) == []
    (late,) = problems("redis", [Seen(15.5, 0.01, "similar", "recommend: stage features away")])
    assert late == "full again 10.5 s after its return"
    turned_away = Seen(15.5, 0.01, "similar", "recommend: stage admission overloaded")
    assert problems("redis", [turned_away]) == [], "said apart"
    assert problems("kafka", [turned_away]) == [], "whatever part is away"
    (strange,) = problems("redis", [replace(turned_away, what="static")])
    assert strange == "rungs ['static'] answered"


def test_errors_strange_rungs_and_lost_events_are_problems() -> None:
    assert problems("redis", [Seen(4.5, 5.0, "error:TimeoutError")] * 2) == []
    (failed,) = problems("redis", [Seen(4.5, 5.0, "error:TimeoutError"), Seen(5, 0.1, "503")] * 2)
    assert failed == "4 of 2004 requests failed"
    (strange,) = problems("kafka", [Seen(4.5, 0.01, "similar")])
    assert strange == "rungs ['similar'] answered"
    (lost,) = problems("kafka", [], KEPT | {"counted_twice": 2})
    assert lost == "2 events counted twice"


def test_what_a_killed_api_process_was_at_work_on_is_not_counted() -> None:
    in_flight = [Seen(3.99, 0.02, "error:ConnectionResetError")] * 9
    assert problems("api-1", in_flight) == []
    assert problems("redis", in_flight) != []
    assert problems("api-1", [Seen(4.2, 0.02, "error:ConnectionResetError")] * 9) != []
    with pytest.raises(SystemExit):
        parse_args(["--part", "api-1"])


def test_figures_of_an_overload_take_the_senders_own_lateness_off() -> None:
    seen = [Seen(0.1, 0.05, "full", "", 0.03), Seen(0.2, 0.004, "503"), Seen(0.3, 5.0, "error:X")]
    found = figures(seen)
    assert (found["sent"], found["refused"], found["errors"]) == (3, 1, 1)
    assert found["answered_p99_ms"] == pytest.approx(20.0)
    assert found["refused_p99_ms"] == pytest.approx(4.0)
    after = [Seen(0.5, 0.01, "similar"), Seen(2.5, 0.2, "full"), Seen(3.0, 0.01, "full")]
    assert back_after_s(Watch(after)) == 2.5


def step(rate: float, *, keeps: float) -> Step:
    """A step of a system that keeps ``keeps`` a second."""
    refused = "" if rate <= keeps else "p99 80.0 ms"
    return Step(
        rate=rate, sent=100, answered_per_s=rate, p50_ms=5.0, p95_ms=9.0, p99_ms=9.0,
        late_p99_ms=0.1, answers={"200 full": 100}, given_up=False, generator_cpu_s=0.0, cpu_s={},
        kept=not refused, refused=refused,
    )  # fmt: skip


@pytest.mark.parametrize("start", [416.0, 30.0])
def test_the_rate_is_searched_among_those_that_are_kept_not_taken_from_the_most(
    start: float,
) -> None:
    tried: list[Step] = []
    found = greatest_kept(lambda rate: step(rate, keeps=300.0), start, tried.append)
    assert 300.0 / (1.0 + LIMIT.tolerance) <= found <= 300.0
    assert len(tried) <= 12, "each takes five seconds"


def test_a_system_that_keeps_no_rate_says_so() -> None:
    with pytest.raises(RecsysError, match=r"found none down to 0\.5.*give one with --rate"):
        greatest_kept(lambda rate: step(rate, keeps=0.0), 8.0, lambda _: None)


RUNNING = """
import sys, time
from pathlib import Path
from benchmarks.loadtest.chaos.system import running_system
with running_system(Path(sys.argv[1]), {}, only="redis") as system:
    print(system.pid("redis"), flush=True)
    time.sleep(60)
"""


def test_ended_by_sigterm_it_takes_its_system_down(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNNING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as experiment:
        assert experiment.stdout is not None
        redis = psutil.Process(int(experiment.stdout.readline()))
        experiment.send_signal(signal.SIGTERM)
        assert experiment.wait(30) == 128 + signal.SIGTERM
    assert not redis.is_running()
