"""The result as one HTML page: latency over rate and over time, where time went, who was busy."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks.loadtest.line_chart import STYLE, Axis, Line, line_chart
from benchmarks.loadtest.page_parts import head_section, processes_section, stages_section, table
from benchmarks.loadtest.result import Result, Second, Step, merged
from benchmarks.loadtest.slo import parse_objective
from recsys.evaluation.html_page import html_page

_MOST_SHOWN = 4
_RAMP_POINTS = 24
_OVER_RATE = ("p50", "p95", "p99", "max")
_NINES = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99)


def page(result: Result) -> str:
    """Give the page."""
    steps = result.steps()
    shown = _shown(steps)
    parts = [
        _head(result),
        _over_rate(result, steps),
        *(_over_time(result, step) for step in shown),
        _distribution(shown),
        *(stages_section(step) for step in shown if step.stages),
        *(processes_section(step) for step in shown if step.processes),
        _kinds(shown),
        _reading(),
    ]
    return html_page(f"Load test: {result.name}", "\n".join(filter(None, parts)), style=STYLE)


def bound_of(result: Result) -> tuple[float, str] | None:
    """Give the tightest bound on a latency that the objective has, for the charts."""
    if not result.objective:
        return None
    bounds = [c for c in parse_objective(result.objective).clauses if not c.is_share]
    clause = min(bounds, key=lambda c: c.bound, default=None)
    return None if clause is None else (clause.bound, clause.text)


def _shown(steps: list[Step]) -> list[Step]:
    """Choose the steps that get charts of their own: of many, those around the limit."""
    if len(steps) <= _MOST_SHOWN:
        return steps
    kept = [step for step in steps if step.kept]
    refused = [step for step in steps if not step.kept]
    chosen = [max(kept, key=lambda s: s.rate)] if kept else []
    if refused:
        chosen.append(min(refused, key=lambda s: s.rate))
    return chosen or steps[:_MOST_SHOWN]


def _head(result: Result) -> str:
    mix = ", ".join(f"{name} {weight:g}" for name, weight in result.mix.items())
    facts = [
        ("target", result.target),
        ("objective", result.objective or "none"),
        ("profile", result.profile),
        ("mix", mix),
        ("began", result.began),
        ("machine", f"{result.machine.get('system', '')}, {result.machine.get('cores', '')} cores"),
        ("seed, repeats", f"{result.settings.get('seed', 0)}, {len(result.repeats)}"),
        ("requests sent", f"{sum(step.sent for step in result.steps()):,}"),
    ]
    return head_section(f"Load test: {result.name}", headline(result), facts, notes_on(result))


def headline(result: Result) -> str:
    """Say in a sentence what was found."""
    if result.searched:
        rates = [r.greatest_rate for r in result.repeats if r.greatest_rate is not None]
        if len(rates) < len(result.repeats):
            missed = len(result.repeats) - len(rates)
            return f"{result.objective} held at no rate in {missed} of {len(result.repeats)} runs."
        found = ", ".join(f"{rate:g}" for rate in rates)
        return f"{result.objective} holds up to {found} requests a second."
    steps = result.steps()
    failed = sum(count for s in steps for name, count in s.answers.items() if name[:1] != "2")
    said = f"{sum(s.sent for s in steps):,} requests, {failed:,} errors"
    if result.objective:
        held = sum(step.kept for step in steps)
        said += f"; {result.objective} held in {held} of {len(steps)} steps"
    return said + "."


def notes_on(result: Result) -> list[str]:
    """Give what the reader must know before believing a figure."""
    steps, notes = result.steps(), []
    if any(step.interrupted for step in steps):
        notes.append("The run was interrupted: figures are of what was sent until then.")
    late = [f"{s.rate:g}" for s in steps if s.is_late]
    if late:
        notes.append(
            f"The generator itself ran late at {', '.join(late)} requests a second: what is "
            "measured there is the generator. Use more --processes, or another machine."
        )
    notes += [
        f"At {step.rate:g} requests a second: {step.saturation.cause} "
        f"({'; '.join(step.saturation.evidence)})."
        for step in steps
        if step.saturation is not None
    ]
    notes += [f"{part} at {s.rate:g}/s: {said}." for s in steps for part, said in s.grown.items()]
    return notes


def _over_rate(result: Result, steps: list[Step]) -> str:
    measured = sorted((step for step in steps if step.sent), key=lambda s: s.rate)
    rows = [
        [
            f"{s.rate:,.1f}", f"{s.answered_per_s:,.1f}",
            *(f"{s.latency_ms[name]:,.2f}" for name in _OVER_RATE),
            f"{100 * s.errors:.2f} %", f"{100 * s.degraded:.2f} %",
            f"{s.generator_late_p99_ms:.2f}", "; ".join(s.missed) or "held",
        ]
        for s in measured
    ]  # fmt: skip
    heads = ["requests a second", "good answers a second", "p50 ms", "p95 ms", "p99 ms", "max ms",
             "errors", "degraded", "generator late p99 ms", "objective"]  # fmt: skip
    if not result.objective:
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    chart = ""
    if result.profile.startswith("ramp"):
        chart = "".join(_over_ramp(result, step) for step in measured)
    elif len({step.rate for step in measured}) > 1:
        refused = frozenset(n for n, s in enumerate(measured) if not s.kept)
        lines = [
            Line(name=name, x=[s.rate for s in measured],
                 y=[s.latency_ms[name] for s in measured], hollow=refused)
            for name in _OVER_RATE
        ]  # fmt: skip
        chart = line_chart(
            lines, x=Axis(title="requests a second", is_log=True),
            y=Axis(title="latency, ms", is_log=True), bound=bound_of(result), width=900,
        )  # fmt: skip
        chart = f'<div class="card">{chart}<p class="about">Rings: not held.</p></div>'
    return (
        '<section id="rate"><h2>Latency over rate</h2><p class="about">From the moment a request '
        "was due to the end of its answer; what has no answer counts with the whole timeout.</p>"
        f'{chart}<div class="card">{table(heads, rows)}</div></section>'
    )


def _over_ramp(result: Result, step: Step) -> str:
    """Draw the seconds of a ramp by what was sent in them, neighbours put together."""
    by_rate = sorted(step.seconds, key=lambda second: second.due)
    size = max(1, len(by_rate) // _RAMP_POINTS)
    groups = [by_rate[n : n + size] for n in range(0, len(by_rate), size)]
    rates = [sum(second.due for second in group) / len(group) for group in groups]
    figures: dict[str, Callable[[Second], float]] = {
        "median": lambda second: second.p50_ms, "p99": lambda second: second.p99_ms,
    }  # fmt: skip
    lines = [
        Line(name=f"{name} of a second", x=rates, y=[median(map(of, group)) for group in groups])
        for name, of in figures.items()
    ]
    drawn = line_chart(
        lines, x=Axis(title="requests sent in that second"),
        y=Axis(title="latency, ms", is_log=True), bound=bound_of(result), width=900,
    )  # fmt: skip
    return f'<div class="card">{drawn}</div>'


def _over_time(result: Result, step: Step) -> str:
    if len(step.seconds) < 2:
        return ""
    at = [float(row.at_s) for row in step.seconds]
    lines = [
        Line(name="median", x=at, y=[row.p50_ms for row in step.seconds]),
        Line(name="p99", x=at, y=[row.p99_ms for row in step.seconds]),
        Line(name="longest", x=at, y=[row.max_ms for row in step.seconds]),
    ]
    counts = [
        Line(name="due", x=at, y=[float(row.due) for row in step.seconds]),
        Line(name="of them errors", x=at, y=[float(row.bad) for row in step.seconds]),
    ]
    seconds = Axis(title="second in which a request was due")
    latency = Axis(title="latency, ms", is_log=True)
    slow = line_chart(lines, x=seconds, y=latency, bound=bound_of(result))
    return (
        f'<section><h2>Over time, {step.rate:,.1f} requests a second</h2><div class="card pair">'
        f"<div>{slow}</div><div>{line_chart(counts, x=seconds, y=Axis(title='requests'))}</div>"
        "</div></section>"
    )


def _distribution(steps: list[Step]) -> str:
    lines = []
    for step in steps[:_MOST_SHOWN]:
        if not step.sent:
            continue
        histogram = merged([step.histogram])
        # Percentiles beyond one request in all of them say nothing.
        nines = [p for p in _NINES if (1 - p / 100) * step.sent >= 1.0 or p <= 50.0]
        lines.append(
            Line(
                name=f"{step.rate:,.1f}/s", x=[1 / (1 - p / 100) for p in nines],
                y=[histogram.get_value_at_percentile(p) / 1e3 for p in nines],
            )
        )  # fmt: skip
    if not lines:
        return ""
    marks = [(1 / (1 - p / 100), f"{p:g} %") for p in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)]
    most = max(line.x[-1] for line in lines)
    chart = line_chart(
        lines, x=Axis(title="share of requests that took at most so long", is_log=True,
                      marks=[mark for mark in marks if mark[0] <= most]),
        y=Axis(title="latency, ms", is_log=True), width=900,
    )  # fmt: skip
    return f'<section><h2>Distribution of latency</h2><div class="card">{chart}</div></section>'


def _kinds(steps: list[Step]) -> str:
    rows = [
        [
            f"{step.rate:,.1f}", kind, f"{found.sent:,}", f"{found.bad:,}",
            *(f"{found.latency_ms[name]:,.2f}" for name in _OVER_RATE),
        ]
        for step in steps
        for kind, found in step.kinds.items()
    ]  # fmt: skip
    answers = [
        [f"{step.rate:,.1f}", label, f"{count:,}", f"{100 * count / step.sent:.2f} %"]
        for step in steps
        for label, count in sorted(step.answers.items(), key=lambda one: -one[1])
    ]
    heads = ["requests a second", "kind", "sent", "errors", *(f"{n} ms" for n in _OVER_RATE)]
    return (
        '<section><h2>Kinds of requests, and their answers</h2><div class="card pair"><div>'
        f"{table(heads, rows, words=2)}</div><div>"
        f"{table(['requests a second', 'answer', 'requests', 'share'], answers, words=2)}"
        "</div></div></section>"
    )


def _reading() -> str:
    return (
        '<section id="reading"><h2>How to read it</h2><ul class="notes">'
        "<li>The loop is open: when a request is due is fixed before anything is sent. A service "
        "that stands still is asked all the same, and who came meanwhile has waited.</li>"
        "<li>One run says nothing of another day, or of how far the next run would be from this "
        "one: compare repeats with recsys loadtest compare.</li>"
        "<li>A percentile needs requests: below a hundred, p99 is the longest of them.</li>"
        "<li>The generator shares the machine with the service unless they are apart; what it "
        "uses is in the JSON (generator_cores).</li></ul></section>"
    )
