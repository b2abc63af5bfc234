"""The page of a load test says what its result says, and loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from benchmarks.loadtest.line_chart import Axis, Line, line_chart
from benchmarks.loadtest.page import headline, notes_on, page
from benchmarks.loadtest.result import Process, Repeat, Result, Saturation, Stage, Step
from benchmarks.loadtest.senders import Sent
from benchmarks.loadtest.slo import parse_objective
from benchmarks.loadtest.summary import summarise


def step(rate: float, latency_ms: float, *, late_ms: float = 0.1) -> Step:
    """Three seconds at a rate, every answer as quick as the other."""
    count = int(rate * 3)
    none = np.zeros(count, dtype=np.int64)
    sent = Sent(
        due_s=np.arange(count) / rate, latency_s=np.full(count, latency_ms / 1e3),
        lateness_s=np.full(count, late_ms / 1e3), kinds=none, labels=none,
        label_names=("200 full",), stages={}, elapsed_s=3.0, cpu_s=(0.3,), given_up=False,
        interrupted=False, num_open=0,
    )  # fmt: skip
    objective = parse_objective("p99<50ms")
    return summarise(sent, rate=rate, duration_s=3.0, timeout_s=5.0, objective=objective)


def result(*repeats: Repeat, searched: bool = True, name: str = "the API") -> Result:
    return Result(
        name=name, target="http://127.0.0.1:8080", profile="constant", mix={"recommend": 1.0},
        objective="p99<50ms", searched=searched, began="2026-01-02T03:04:05+00:00",
        machine={"cores": "2", "system": "x86_64 Linux"}, versions={}, settings={"seed": 7},
        repeats=list(repeats),
    )  # fmt: skip


class _Tags(HTMLParser):
    """Checks that every element is closed in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs} or tag == "a"
        if tag not in ("meta", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "circle", "polyline"):
            assert self.open.pop() == tag


def test_a_search_is_drawn_with_its_bound_and_what_was_refused() -> None:
    steps = [step(100, 9.0), step(150, 61.0), step(122, 20.0), step(130, 44.0), step(140, 55.0)]
    found = result(Repeat(seed=7, steps=steps, greatest_rate=130.0), name="<API & more>")
    html = page(found)
    tags = _Tags()
    tags.feed(html)
    assert not tags.open
    assert "<script" not in html and "default-src 'none'" in html
    assert "Load test: &lt;API &amp; more&gt;" in html
    assert headline(found) == "p99<50ms holds up to 130 requests a second."
    assert html.count("point hollow") == 2 * 4, "two refused rates, four percentiles"
    assert "p99&lt;50ms" in html
    # Of five steps, those on both sides of the limit get charts of their own.
    assert re.findall(r"Over time, ([\d.]+)", html) == ["130.0", "140.0"]


def test_stages_processes_and_the_cause_are_shown_where_they_are_known() -> None:
    from msgspec.structs import replace

    seen = replace(
        step(100, 9.0, late_ms=9.0),
        stages={"features": Stage(mean_ms=2.0, p99_ms=4.0, count=300),
                "recommend": Stage(mean_ms=5.0, p99_ms=None, count=300)},
        processes={"api": Process(cores=0.97, busiest_thread=0.95, rss_mib=200, grown_mib=3)},
        saturation=Saturation(cause="one thread of api", evidence=["0.95 of a core"]),
        grown={"api": "memory 200.0 to 220.0 MiB"},
    )  # fmt: skip
    found = result(Repeat(seed=7, steps=[seen]), searched=False)
    html = page(found)
    assert "2.00 ms" in html and "elsewhere" in html and "0.97" in html
    late, cause, grown = notes_on(found)
    assert "generator itself ran late at 100" in late
    assert cause == "At 100 requests a second: one thread of api (0.95 of a core)."
    assert grown == "api at 100/s: memory 200.0 to 220.0 MiB."
    assert headline(found) == "300 requests, 0 errors; p99<50ms held in 0 of 1 steps."


@pytest.mark.parametrize("is_log", [False, True])
def test_lines_keep_within_the_drawing_and_leave_gaps(is_log: bool) -> None:
    line = Line(name="a", x=[1, 2, 3, 4], y=[5.0, float("nan"), 0.5, 80.0])
    svg = line_chart(
        [line], x=Axis(title="x", is_log=is_log), y=Axis(title="y", is_log=is_log),
        bound=(50.0, "bound"), width=500, height=200,
    )  # fmt: skip
    assert svg.count("<polyline") == 2
    for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', svg):
        assert 0 <= float(x) <= 500 and 0 <= float(y) <= 200
    assert "nothing to draw" in line_chart([], x=Axis(title="x"), y=Axis(title="y"))
    one = line_chart([Line(name="a", x=[3], y=[3])], x=Axis(title="x"), y=Axis(title="y"))
    assert 'cx="' in one
