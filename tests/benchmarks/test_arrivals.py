"""When requests are due, who asks, what is asked: as the command line says it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.loadtest.arrivals import curve_arrivals_s, poisson_arrivals_s, zipf_users
from benchmarks.loadtest.options import parse_seconds
from benchmarks.loadtest.profiles import parse_profile
from benchmarks.loadtest.trace import read_trace
from benchmarks.loadtest.traffic import KINDS, Traffic, Wanted, draw_kinds, parse_mix
from recsys.errors import InputError


def test_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    rng = np.random.default_rng(7)
    due_s = poisson_arrivals_s(rate_per_s=1000, duration_s=20, rng=rng)
    assert len(due_s) == pytest.approx(20_000, rel=0.03)
    gaps = np.diff(due_s)
    assert np.all(gaps >= 0)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("constant", [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("ramp:0..2000", [0.04, 0.12, 0.2, 0.28, 0.36]),
        ("ramp:2000..0", [0.36, 0.28, 0.2, 0.12, 0.04]),
        ("spike:6x", [0.1, 0.1, 0.6, 0.1, 0.1]),
    ],
)
def test_a_profile_puts_requests_where_its_rate_is(text: str, shares: list[float]) -> None:
    curve = parse_profile(text).curve(1000.0, 20.0)
    due_s = curve_arrivals_s(curve, np.random.default_rng(3))
    assert np.all(np.diff(due_s) >= 0) and due_s[0] >= 0 and due_s[-1] <= 20.0
    found, _ = np.histogram(due_s, bins=5, range=(0, 20))
    np.testing.assert_allclose(found / len(due_s), shares, atol=0.012)


def test_profiles_and_durations_say_what_they_want() -> None:
    assert parse_profile("steps:50,100.5").rates(7.0) == (50.0, 100.5)
    assert parse_profile("soak").rates(7.0) == (7.0,)
    for wrong in ("ramps", "ramp:0..0", "spike:0x", "spike:10", "steps:", "steps:50,0"):
        with pytest.raises(ValueError, match=r"wanted constant, soak, .* found"):
            parse_profile(wrong)
    assert [parse_seconds(text) for text in ("30", "1.5s", "5m", "1h")] == [30, 1.5, 300, 3600]
    with pytest.raises(ValueError, match="wanted a duration"):
        parse_seconds("5 minutes")


def test_a_trace_is_sent_as_recorded_or_at_another_rate(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("# seconds, user\n100.0,ann\n100.5,bob\n\n102.0,ann\n")
    trace = read_trace(path)
    assert trace.due_s.tolist() == [0.0, 0.5, 2.0]
    assert trace.users == ("ann", "bob", "ann")
    assert trace.at_rate(15.0).due_s.tolist() == pytest.approx([0.0, 0.05, 0.2])
    for lines, said in (
        ("1\n0.5\n", ":2: wanted times that do not fall"),
        ("1\nsoon\n", ":2: wanted SECONDS or SECONDS,USER, found 'soon'"),
        ("1,ann\n2\n", "wanted a user in every line or in none"),
        ("# nothing\n", "found none"),
    ):
        path.write_text(lines)
        with pytest.raises(InputError, match=said):
            read_trace(path)


def test_zipf_users_prefer_the_head_and_refuse_an_empty_list() -> None:
    rng = np.random.default_rng(7)
    users = zipf_users(["a", "b", "c"], 10_000, exponent=1.0, rng=rng)
    assert users.count("a") / 10_000 == pytest.approx(6 / 11, abs=0.02)
    with pytest.raises(ValueError, match="at least one user"):
        zipf_users([], 1, exponent=1.0, rng=rng)


def test_a_mix_is_drawn_by_weight_and_refuses_what_it_does_not_know() -> None:
    kinds = draw_kinds(parse_mix("recommend=3,events"), 10_000, np.random.default_rng(1))
    shares = np.bincount(kinds, minlength=len(KINDS)) / 10_000
    np.testing.assert_allclose(shares, [0.75, 0, 0, 0.25], atol=0.02)
    for wrong in ("events=1", "recommend=x", "recommend,recommend", "buy=1", "recommend=-1", ""):
        with pytest.raises(ValueError, match="wanted"):
            parse_mix(wrong)


class _Words:
    """A target whose requests are the wishes themselves."""

    def put(self, wanted: Wanted) -> Wanted:
        return wanted

    def shown(self, answer: Any) -> tuple[str, Sequence[str]]:
        return answer


def _traffic(click_rate: float) -> Traffic:
    return Traffic(_Words(), k=3, click_rate=click_rate, learns=True, rng=np.random.default_rng(5))


def test_events_report_a_list_that_was_shown_once_and_click_what_stood_in_it() -> None:
    traffic = _traffic(click_rate=1.0)
    recommend, rank, similar, events = range(4)
    traffic.begin(["ann"] * 6, np.array([events, recommend, events, similar, rank, events]))
    first = traffic[0]
    assert (first.kind, traffic.kinds[0]) == ("recommend", recommend), "nothing was shown yet"
    traffic[1]
    traffic.answered(1, ("r-1", ["a", "b", "c"]))
    report = traffic[2]
    assert report.kind == "events" and report.shown.request_id == "r-1"
    assert report.shown.items == ("a", "b", "c") and 0 in report.clicks
    assert traffic[3].kind == "similar" and traffic[3].items[0] in "abc"
    assert set(traffic[4].items) <= {"a", "b", "c"}
    assert traffic[5].kind == "recommend", "a list is reported once"


def test_clicks_fall_with_the_place() -> None:
    traffic = _traffic(click_rate=0.5)
    counts = np.zeros(4)
    for _ in range(4_000):
        counts[list(traffic.clicks(4))] += 1
    np.testing.assert_allclose(counts / 4_000, [0.5, 0.25, 1 / 6, 0.125], atol=0.03)
