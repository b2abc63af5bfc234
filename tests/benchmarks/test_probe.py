"""`recsys loadtest probe`: its statistics, its looking, its words. Against real servers:
tests/serving/api/test_real_servers.py.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.loadtest.__main__ import main
from benchmarks.loadtest.measure import Plan
from benchmarks.loadtest.probe.background import Background
from benchmarks.loadtest.probe.censored import ended_by, figures, percentile
from benchmarks.loadtest.probe.command import is_fine
from benchmarks.loadtest.probe.objective import parse_freshness
from benchmarks.loadtest.probe.page import headline, page
from benchmarks.loadtest.probe.prober import ProbeConfig, Prober
from benchmarks.loadtest.probe.progress import Progress
from benchmarks.loadtest.probe.result import Asked, Observation, Outcome, ProbeResult, summarise
from benchmarks.loadtest.probe.service import Service
from benchmarks.loadtest.probe.watching import WatchConfig, Watched, watch
from benchmarks.loadtest.profiles import parse_profile
from benchmarks.loadtest.sender import SenderConfig
from benchmarks.loadtest.stages import StageMetrics
from benchmarks.loadtest.targets import parse_address
from recsys.errors import InputError, ServerError
from tests.benchmarks.test_loadtest_page import _Tags

waits = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=40)


@given(waits, st.sampled_from([1.0, 50.0, 90.0, 99.0, 100.0]))
def test_without_losses_a_percentile_is_that_of_the_values(values: list[float], p: float) -> None:
    wanted = float(np.percentile(values, p, method="inverted_cdf"))
    assert percentile(values, [True] * len(values), p) == wanted


@given(waits, st.integers(1, 40), st.sampled_from([50.0, 90.0, 99.0]))
def test_what_is_lost_at_the_time_out_is_beyond_all_that_was_seen(
    values: list[float], num_lost: int, p: float
) -> None:
    all_waits = values + [2e4] * num_lost
    ended = [True] * len(values) + [False] * num_lost
    as_infinite = np.sort(values + [np.inf] * num_lost)
    wanted = float(as_infinite[int(np.ceil(len(all_waits) * p / 100 - 1e-9)) - 1])
    assert percentile(all_waits, ended, p) == (wanted if np.isfinite(wanted) else None)


def test_interrupted_waits_move_percentiles_as_kaplan_and_meier_say() -> None:
    # The example of their paper (1958, section 2): deaths at .8, 3.1, 5.4, 9.2; losses at 1.0, 2.7,
    # 7.0, 12.1. Survival 7/8, 7/8 · 4/5, that · 3/4, that · 1/2.
    times, shares = ended_by(
        [0.8, 1.0, 2.7, 3.1, 5.4, 7.0, 9.2, 12.1],
        [True, False, False, True, True, False, True, False],
    )
    assert times.tolist() == [0.8, 3.1, 5.4, 9.2]
    assert (1 - shares).tolist() == pytest.approx([0.875, 0.7, 0.525, 0.2625])
    assert figures([], [], (50.0,)) == {"p50": None, "max": None}


class World:
    """A change that shows at a moment, and questions that each take a while: a clock by hand."""

    def __init__(self, shows_at_s: float, *, takes_s: float = 0.004, unusable: int = 0) -> None:
        self.now_s, self._shows_at_s, self._takes_s = 100.0, shows_at_s, takes_s
        self._unusable = unusable
        self.asked_at: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    async def is_so(self) -> bool | None:
        self.asked_at.append(self.now_s - 100.0)
        is_there = self.now_s - 100.0 + self._takes_s / 2 >= self._shows_at_s
        self.now_s += self._takes_s
        if self._unusable:
            self._unusable -= 1
            return None
        return is_there

    def look(self, config: WatchConfig) -> tuple[bool, Watched]:
        watched = Watched()
        done = asyncio.run(watch(self.is_so, 100.0, config, watched, self.clock, self.sleep))
        return done, watched


@given(st.floats(0.0, 9.0), st.floats(0.0001, 0.2), st.integers(1, 4))
def test_the_moment_of_a_change_lies_between_the_two_bounds(
    shows_at_s: float, takes_s: float, in_a_row: int
) -> None:
    world = World(shows_at_s, takes_s=takes_s)
    seen, found = world.look(WatchConfig(in_a_row=in_a_row))
    assert seen and found.at_most_s is not None
    assert found.at_least_s <= shows_at_s + 1e-9
    assert found.at_most_s >= shows_at_s - 1e-9
    # What is promised of the resolution: a pause or a twentieth, and two questions.
    width = found.at_most_s - found.at_least_s
    assert width <= max(0.01, 0.05 * found.at_most_s) + 2 * takes_s + 1e-9


def test_a_change_that_never_shows_is_given_up_and_asked_for_ever_less_often() -> None:
    world = World(1e9)
    seen, found = world.look(WatchConfig(timeout_s=10.0))
    assert not seen and found.at_most_s is None
    assert 9.0 < found.at_least_s < 10.0
    assert len(world.asked_at) < 130, "a system that is behind is not asked without end"


def test_answers_of_no_use_are_evidence_of_nothing() -> None:
    world = World(0.0, unusable=5)
    seen, found = world.look(WatchConfig(in_a_row=1))
    assert seen and (found.num_unusable, found.num_asked) == (5, 6)
    assert found.at_least_s == 0.0, "it may have been there all the time"
    seen, found = World(0.0, unusable=10**9).look(WatchConfig(timeout_s=1.0))
    assert not seen and found.num_unusable == found.num_asked


def test_an_answer_that_goes_back_on_it_does_not_count_as_seen() -> None:
    answers = iter([False, True, True, False, True, True, True])
    now = iter(x / 10 for x in range(1_000))

    async def is_so() -> bool:
        return next(answers)

    async def sleep(seconds: float) -> None:
        pass

    found = Watched()
    asyncio.run(watch(is_so, 0.0, WatchConfig(in_a_row=3), found, lambda: next(now), sleep))
    assert found.num_asked == 7
    assert found.at_most_s is not None and found.at_least_s < found.at_most_s
    assert found.at_least_s > 0.5, "the last answer without it was the fourth, not the first"


def observation(
    path: str, outcome: Outcome = "seen", at_most_ms: float | None = 40.0, **more: float
) -> Observation:
    return Observation(
        path=path, tracer=3, outcome=outcome, sent_s=1.5, accepted_ms=10.0, at_least_ms=30.0,
        at_most_ms=at_most_ms if outcome == "seen" else None, watched_ms=more.get("watched_ms", 0),
        reason="" if outcome == "seen" else "<why>",
    )  # fmt: skip


def result(observations: list[Observation], objective: str = "") -> ProbeResult:
    wanted = parse_freshness(objective) if objective else None
    paths = summarise(observations, wanted.percentiles() if wanted else ())
    return ProbeResult(
        target="http://<host>:1", began="2026-01-02T03:04:05+00:00", duration_s=3.0, commit="abc",
        versions={}, machine={"cores": "2", "system": "x86_64 Linux"},
        settings={"rate": 1.0, "duration_s": 2.0, "timeout_s": 10.0, "poll_ms": 10.0, "in_a_row": 3,
                  "background_rate": 0.0, "mix": "recommend=1", "seed": 7},
        objective=objective, missed=wanted.missed(paths) if wanted else [], interrupted=False,
        paths=paths, asked=Asked(questions=9, per_s=3.0, mean_ms=4.0, unusable=0, cores=0.1),
        items_cleared=0, items_left=[], background=None, observations=observations,
    )  # fmt: skip


def test_a_lost_tracer_is_in_the_percentiles_and_misses_the_objective() -> None:
    lost = observation("created", "lost", watched_ms=10_003.0)
    found = result([observation("created")] * 9 + [lost], "created.p90<1s,created.p99<1s")
    path = found.paths["created"]
    assert (path.sent, path.seen, path.lost) == (10, 9, 1)
    assert path.at_most_ms == {"p50": 40.0, "p90": 40.0, "p99": None, "max": None}
    assert path.at_least_ms["p50"] == 30.0 and path.since_accepted_ms["p50"] == 30.0
    assert path.width_ms["p50"] == 10.0
    assert found.missed == ["created.p99 over 10003 ms, 1 of 10 lost"]
    assert not is_fine(found)
    assert "&gt;10,003" in page(found) and "tracers 3" in page(found)


def test_a_refused_or_untried_tracer_is_named_and_no_success() -> None:
    seen = [observation(p) for p in ("accepted", "features", "answer", "created", "withdrawn")]
    assert is_fine(result(seen))
    refused, untried = observation("answer", "refused"), observation("features", "untried")
    found = result([*seen, refused, untried])
    assert not is_fine(found)
    html = page(found)
    assert "answer: 1 events were not accepted (&lt;why&gt;)" in html
    assert "features: 1 not tried (&lt;why&gt;)" in html
    nothing = result([], "answer.p99<1s")
    assert nothing.missed == ["answer.p99 nothing was measured"]
    assert headline(nothing).startswith("Nothing was measured.")


def test_the_page_is_whole_and_loads_nothing() -> None:
    names = ("features", "answer", "created", "withdrawn")
    found = result(
        [observation(name, at_most_ms=40.0 + n) for name in names for n in range(60)]
        + [observation("answer", "lost", watched_ms=10_000.0)],
        "answer.p99<1s",
    )
    html, tags = page(found), _Tags()
    tags.feed(html)
    assert not tags.open
    assert "<script" not in html and "&lt;host&gt;" in html
    in_legends, lost = 4, 1
    assert html.count('<circle class="point"') == 4 * 60 + in_legends, "each point over time"
    assert html.count('class="point hollow"') == lost + 1
    assert "answer.p99&lt;1s" in html


def test_what_is_known_so_far_is_drawn_in_a_terminal() -> None:
    config = ProbeConfig(rate=1.0, duration_s=9.0, watch=WatchConfig(), seed=1)
    prober = Prober(service=Service(parse_address("http://127.0.0.1:1")), config=config)
    prober.num_due, prober.num_begun = 9, 4
    prober.observations += [observation("created", at_most_ms=43.21)] * 3
    prober.watching["answer"] = 2
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, color_system=None)
    with Progress(console, prober, None) as shown:
        shown.draw(4.2)
        drawn = screen.getvalue()
    assert "4 s, 4 of 9 tracers" in drawn
    (created,) = (line for line in drawn.splitlines() if "item created" in line)
    assert created.split()[-5:] == ["43.2", "43.2", "43.2", "43.2", "13.2"]


def test_objectives_are_read_and_wrong_words_refused(capsys: pytest.CaptureFixture[str]) -> None:
    found = parse_freshness("answer.p99<1s, answer.p95<=20ms,created.max<2s")
    assert found.percentiles() == (95.0, 99.0)
    assert found.bound_of("answer") == (20.0, "answer.p95<=20ms")
    assert found.bound_of("features") is None
    for wrong in ("p99<1s", "speed.p99<1s", "answer.p99<1", "answer.errors<1%", "answer.mean<1s",
                  "answer.", ""):  # fmt: skip
        with pytest.raises(ValueError, match="wanted"):
            parse_freshness(wrong)
    for argv, said in (
        (["--rate", "0"], "--rate must be above 0"),
        (["--rate", "50"], "--rate must be at most 20"),
        (["--in-a-row", "0"], "--in-a-row must be above 0"),
        (["--background-rate", "-1"], "--background-rate must be at least 0"),
        (["--objective", "p99<1s"], "wanted clauses such as answer.p99<1s"),
        (["--duration", "long"], "wanted a duration such as 30"),
    ):
        with pytest.raises(SystemExit):
            main(["probe", *argv])
        assert said in capsys.readouterr().err
    with pytest.raises(InputError, match="wanted the HTTP API"):
        main(["probe", "--url", "grpc://127.0.0.1:1"])
    with pytest.raises(ServerError, match=r"wanted whole answers .* found: ConnectionRefused"):
        main(["probe", "--url", "http://127.0.0.1:1"])


@pytest.fixture(scope="module")
def stubborn() -> Iterator[str]:
    """A service that takes everything and never shows any of it."""
    body = '{"rung":"full","accepted":100,"items":[],"features":{"history":[]}}'
    command = [
        sys.executable, "-m", "benchmarks.loadtest.queue_server", "--service-ms", "1",
        "--body", body,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def test_interrupted_it_says_what_it_knows_at_once(stubborn: str) -> None:
    watch_config = WatchConfig(timeout_s=30.0)
    config = ProbeConfig(rate=20.0, duration_s=30.0, watch=watch_config, seed=1)
    prober = Prober(service=Service(parse_address(stubborn)), config=config)

    async def run() -> float:
        stop = asyncio.Event()
        running = asyncio.create_task(prober.run(stop))
        await asyncio.sleep(0.5)
        stop.set()
        began_s = time.perf_counter()
        await running
        await asyncio.sleep(0)  # lets go of the sockets
        return time.perf_counter() - began_s

    assert asyncio.run(run()) < 10.0, "it does not wait for the time-out"
    assert 0 < prober.num_begun < prober.num_due
    outcomes = {o.outcome for o in prober.observations if o.path == "created"}
    assert outcomes == {"interrupted"} and not any(prober.watching.values())


def test_load_beside_the_tracers_ends_when_it_is_told_to(stubborn: str) -> None:
    address = parse_address(stubborn)
    plan = Plan(
        rate=40.0, duration_s=60.0, warmup_s=0.1, profile=parse_profile("constant"), trace=None,
        mix={"recommend": 1.0}, user_ids=("a", "b"), zipf=1.0, timeout_s=5.0, objective=None,
        searches=False, tolerance=0.05,
    )  # fmt: skip
    config = SenderConfig(
        address=address, template=None, user_ids=("a", "b"), k=10, click_rate=0.3, learns=False,
        timeout_s=5.0, seed=(1,),
    )  # fmt: skip
    load = Background(
        plan=plan, config=config, parts={}, metrics=StageMetrics(None), num_processes=1, seed=1
    )  # fmt: skip
    load.start()
    assert load.wait_warm(30.0)
    load.stop()
    assert load.step is not None and load.step.errors == 0.0
    assert load.step.sent < 40 * 60
