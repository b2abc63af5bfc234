"""A simulation as one page: over rate, over time, who was busy, and beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.capacity.simulation.prediction import Point
from benchmarks.capacity.simulation.report import Simulated, SimulatedRate
from benchmarks.loadtest.line_chart import STYLE, Axis, Line, line_chart
from benchmarks.loadtest.page_parts import head_section, table
from recsys.evaluation.html_page import html_page

_TITLE = "Simulated cluster"
_FIGURES = ("p50", "p95", "p99")


def page(found: Simulated) -> str:
    """Give the page of a simulation."""
    facts = [
        ("profile", f"{found.profile} ({found.profile_of})"), ("seed", found.seed),
        *((name.replace("_", " "), value) for name, value in found.shape.items()
          if value is not None),
    ]  # fmt: skip
    parts = [
        head_section(_TITLE, _headline(found), facts, _NOTES),
        _over_rate(found.rates),
        *(_over_time(rate) for rate in found.rates),
        _parts(found.rates),
    ]
    return html_page(_TITLE, "\n".join(filter(None, parts)), style=STYLE)


def prediction_page(points: Sequence[Point], *, profile: str, of: str, made_of: str) -> str:
    """Give the page that lays the simulated curve over the measured one."""
    rates = [point.rate for point in points]
    charts = []
    for name in _FIGURES:
        lines = [
            Line(name=f"{name}, simulated", x=rates,
                 y=[point.simulated_ms[name] for point in points]),
            Line(name=f"{name}, measured", x=rates,
                 y=[point.measured_ms[name] for point in points], marks="only"),
        ]  # fmt: skip
        charts.append(f"<div>{_chart(lines, 'latency, ms', x='requests a second')}</div>")
    more = [
        ("CPU of all, ms a request", "cpu_ms"),
        ("users in a call of the model server", "users_a_call"),
    ]
    for title, field in more:
        lines = [
            Line(name="simulated", x=rates, y=[getattr(p, f"simulated_{field}") for p in points]),
            Line(name="measured", x=rates, marks="only",
                 y=[getattr(p, f"measured_{field}") for p in points]),
        ]  # fmt: skip
        charts.append(f"<div>{_chart(lines, title, x='requests a second')}</div>")
    rows = [
        [
            f"{p.rate:g}",
            *(f"{p.measured_ms[n]:.1f} / {p.simulated_ms[n]:.1f}" for n in _FIGURES),
            *(f"{100 * p.error(n):+.0f} %" for n in _FIGURES),
            f"{p.measured_cpu_ms:.2f} / {p.simulated_cpu_ms:.2f}",
            f"{p.measured_users_a_call:.2f} / {p.simulated_users_a_call:.2f}",
        ]
        for p in points
    ]  # fmt: skip
    heads = ["requests a second", *(f"{n} ms, measured / simulated" for n in _FIGURES),
             *(f"error of {n}" for n in _FIGURES), "CPU ms a request", "users a call"]  # fmt: skip
    facts = [("profile", profile), ("measured", of), ("made of", made_of)]
    body = (
        head_section("Simulated and measured", "The curve, predicted from service figures.", facts,
                     ["Nothing of the rates drawn here went into the profile but what “made of” "
                      "names."])
        + f'<section><h2>Over rate</h2><div class="card pair">{"".join(charts)}</div>'
        f'<div class="card">{table(heads, rows)}</div></section>'
    )  # fmt: skip
    return html_page("Simulated and measured", body, style=STYLE)


_NOTES = [
    "Times are those of the simulation’s clock. What limits its validity is in "
    "docs/cluster-simulation.md.",
]


def _headline(found: Simulated) -> str:
    if found.p99_limit_ms is not None:
        if found.greatest_rate is None:
            return f"p99 within {found.p99_limit_ms:g} ms is kept at no rate that was tried."
        return (
            f"p99 within {found.p99_limit_ms:g} ms, all answers full, up to "
            f"{found.greatest_rate:,.0f} requests a second."
        )
    sent = sum(rate.sent for rate in found.rates)
    full = sum(rate.answers.get("200 full", 0) for rate in found.rates)
    return f"{sent:,} requests, {100 * full / max(sent, 1):.2f} % answered in full."


def _chart(lines: Sequence[Line], title: str, *, x: str, is_log: bool = False) -> str:
    return line_chart(lines, x=Axis(title=x), y=Axis(title=title, is_log=is_log))


def _over_rate(rates: Sequence[SimulatedRate]) -> str:
    rows = [
        [
            f"{rate.rate:,.1f}", f"{rate.sent:,}",
            *(f"{rate.latency_ms[name]:,.2f}" for name in (*_FIGURES, "max")),
            *(f"{100 * share / max(rate.sent, 1):.2f} %" for share in _shares(rate)),
            f"{rate.retries:,}", f"{rate.hedged:,}",
        ]
        for rate in rates
    ]  # fmt: skip
    heads = ["requests a second", "sent", "p50 ms", "p95 ms", "p99 ms", "max ms", "full",
             "lower rungs", "refused", "failed", "sent again", "reads hedged"]  # fmt: skip
    chart = ""
    if len(rates) > 1:
        lines = [
            Line(name=name, x=[r.rate for r in rates], y=[r.latency_ms[name] for r in rates])
            for name in _FIGURES
        ]
        chart = _chart(lines, "latency, ms", x="requests a second", is_log=True)
        chart = f'<div class="card">{chart}</div>'
    return (
        f'<section><h2>Latency over rate</h2>{chart}<div class="card">{table(heads, rows)}</div>'
        "</section>"
    )


def _shares(rate: SimulatedRate) -> tuple[int, int, int, int]:
    """Give how many were full, from a lower rung, refused, failed."""
    full = rate.answers.get("200 full", 0)
    good = sum(count for label, count in rate.answers.items() if label.startswith("200"))
    failed = sum(count for label, count in rate.answers.items() if label.startswith("error"))
    return full, good - full, rate.sent - good - failed, failed


def _over_time(rate: SimulatedRate) -> str:
    rows = [row for row in rate.seconds if row.due]
    if len(rows) < 2:
        return ""
    at = [float(row.at_s) for row in rows]
    latency = [
        Line(name="median", x=at, y=[row.p50_ms for row in rows]),
        Line(name="p99", x=at, y=[row.p99_ms for row in rows]),
    ]
    full = [float(row.answers.get("200 full", 0)) for row in rows]
    counts = [
        Line(name="due", x=at, y=[float(row.due) for row in rows]),
        Line(name="answered in full", x=at, y=full),
        Line(name="lower rungs and refusals", x=at,
             y=[row.due - good for row, good in zip(rows, full, strict=True)]),
    ]  # fmt: skip
    seconds = "second in which a request was due"
    stretches = ""
    if rate.stretches:
        lines = [
            [
                f"{s.name}", f"{s.begin_s:.1f} to {s.end_s:.1f} s", f"{s.sent:,}",
                *(f"{s.latency_ms[name]:.2f}" for name in _FIGURES),
                f"{100 * s.answers.get('200 full', 0) / max(s.sent, 1):.2f} %",
            ]
            for s in rate.stretches
        ]  # fmt: skip
        heads = ["", "from, to", "sent", "p50 ms", "p95 ms", "p99 ms", "full"]
        stretches = f'<div class="card">{table(heads, lines)}</div>'
    return (
        f"<section><h2>Over time, {rate.rate:,.1f} requests a second</h2>"
        f'<div class="card pair"><div>{_chart(latency, "latency, ms", x=seconds, is_log=True)}'
        f"</div><div>{_chart(counts, 'requests', x=seconds)}</div></div>{stretches}</section>"
    )


def _parts(rates: Sequence[SimulatedRate]) -> str:
    names = list(dict.fromkeys(name for rate in rates for name in rate.cores))
    cores = [
        [f"{rate.rate:,.1f}", *(f"{rate.cores.get(name, 0.0):.3f}" for name in names)]
        for rate in rates
    ]
    sizes = sorted({size for rate in rates for size in rate.model_calls_by_users})
    lines = [
        Line(
            name=f"{rate.rate:,.1f}/s", x=[float(size) for size in sizes],
            y=[100 * rate.model_calls_by_users.get(size, 0)
               / max(sum(rate.model_calls_by_users.values()), 1) for size in sizes],
        )
        for rate in rates[:4]
    ]  # fmt: skip
    drawn = _chart(lines, "share of calls, %", x="users in a call of a model server")
    return (
        '<section><h2>Who was busy</h2><p class="about">Cores used on average, all processes of a '
        f'part together.</p><div class="card">{table(["requests a second", *names], cores)}</div>'
        f'</section><section><h2>Batches</h2><div class="card">{drawn}</div></section>'
    )
