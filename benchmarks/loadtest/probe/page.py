"""The result as one HTML page: how soon each path is seen, its distribution, and over time."""

from __future__ import annotations

from html import escape

from benchmarks.loadtest.line_chart import STYLE, Axis, Line, line_chart
from benchmarks.loadtest.page_parts import head_section, processes_section, table
from benchmarks.loadtest.probe.censored import ended_by
from benchmarks.loadtest.probe.objective import parse_freshness
from benchmarks.loadtest.probe.result import PATHS, Observation, ProbeResult
from benchmarks.loadtest.probe.wording import notes_on, shown_ms, spelt
from benchmarks.loadtest.result import Step
from recsys.evaluation.html_page import html_page

_DRAWN = ("features", "answer", "created", "withdrawn")
_SHOWN = ("p50", "p90", "p99", "max")


def page(result: ProbeResult) -> str:
    """Give the page."""
    parts = [_head(result), _figures(result), _distribution(result), _over_time(result)]
    if result.background is not None:
        parts.append(_load(result.background))
        if result.background.processes:
            parts.append(processes_section(result.background))
    parts.append(_reading(result))
    return html_page(f"Freshness: {result.target}", "\n".join(parts), style=STYLE)


def headline(result: ProbeResult) -> str:
    """Say in a sentence what was found."""
    said = "; ".join(
        f"{name} {spelt(path, 'p50')} / {spelt(path, 'p99')} ms"
        for name, path in result.paths.items()
        if path.num_watched
    )
    said = f"Median / 99th percentile: {said}." if said else "Nothing was measured."
    if result.objective:
        missed = "; ".join(result.missed)
        said += f" {result.objective}: " + (f"missed ({missed})." if missed else "held.")
    return said


def _head(result: ProbeResult) -> str:
    settings, asked = result.settings, result.asked
    load = f"{settings['background_rate']:g} requests a second, {settings['mix']}"
    facts = [
        ("target", result.target),
        ("objective", result.objective or "none"),
        ("tracers", f"{settings['rate']:g} a second for {settings['duration_s']:g} s"),
        ("load beside them", load if settings["background_rate"] else "none"),
        ("began", result.began),
        ("machine", f"{result.machine['system']}, {result.machine['cores']} cores"),
        ("commit, seed", f"{result.commit or 'unknown'}, {settings['seed']}"),
        ("the probe itself", f"{asked.per_s:g} questions a second, {asked.mean_ms:.1f} ms each, "
         f"{asked.cores:.2f} cores"),
    ]  # fmt: skip
    return head_section(f"Freshness: {result.target}", headline(result), facts, notes_on(result))


def _figures(result: ProbeResult) -> str:
    rows = [
        [
            name, PATHS[name], str(path.sent), str(path.seen), str(path.lost),
            str(path.refused), str(path.untried),
            *(spelt(path, figure) for figure in _SHOWN),
            *("" if name == "accepted" else text for text in (
                *(spelt(path, figure, path.at_least_ms) for figure in ("p50", "p99")),
                *(spelt(path, figure, path.since_accepted_ms) for figure in ("p50", "p99")),
                shown_ms(path.width_ms.get("p50")),
            )),
        ]
        for name, path in result.paths.items()
    ]  # fmt: skip
    heads = ["path", "from → to", "sent", "seen", "lost", "not accepted", "not tried", *_SHOWN,
             "at least, p50", "p99", "since accepted, p50", "p99", "to within"]  # fmt: skip
    return (
        '<section><h2>How soon it is seen, milliseconds</h2><p class="about">From before an event '
        "is sent to the first answer that shows what it changed. “At least” goes by the last "
        "question whose answer did not show it: the truth lies between the two.</p>"
        f'<div class="card">{table(heads, rows, words=2)}</div></section>'
    )


def _distribution(result: ProbeResult) -> str:
    lines = []
    for name in _DRAWN:
        found = _watched(result, name)
        times, shares = ended_by(
            [o.watched_ms if o.at_most_ms is None else o.at_most_ms for o in found],
            [o.at_most_ms is not None for o in found],
        )
        x, y = [], []
        before = 0.0
        for time_ms, share in zip(times.tolist(), (100 * shares).tolist(), strict=True):
            x += [time_ms, time_ms]
            y += [before, share]
            before = share
        lines.append(Line(name=name, x=x, y=y, marks="none"))
    chart = line_chart(
        lines, x=Axis(title="milliseconds since it was sent", is_log=True),
        y=Axis(title="seen by then, %"), width=900,
    )  # fmt: skip
    return (
        '<section><h2>Distribution</h2><p class="about">What was lost or interrupted was watched '
        "for as long as it was (the product-limit estimator): a line that ends below 100 % says "
        f'that the rest was not seen.</p><div class="card">{chart}</div></section>'
    )


def _over_time(result: ProbeResult) -> str:
    objective = parse_freshness(result.objective) if result.objective else None
    charts = []
    for name in _DRAWN:
        found = _watched(result, name)
        seen = [o for o in found if o.at_most_ms is not None]
        lost = [o for o in found if o.at_most_ms is None]
        lines = [
            Line(name="seen", x=[o.sent_s for o in seen],
                 y=[o.at_most_ms or 0.0 for o in seen], marks="only")
        ]  # fmt: skip
        if lost:
            lines.append(
                Line(name="not seen by then", x=[o.sent_s for o in lost],
                     y=[o.watched_ms for o in lost], marks="only",
                     hollow=frozenset(range(len(lost))))
            )  # fmt: skip
        drawn = line_chart(
            lines, x=Axis(title="second in which it was sent"),
            y=Axis(title="milliseconds", is_log=True),
            bound=objective.bound_of(name) if objective else None,
        )  # fmt: skip
        charts.append(f'<div class="card"><h3>{name}: {escape(PATHS[name])}</h3>{drawn}</div>')
    return (
        '<section><h2>Over time</h2><p class="about">Each point is one event.</p>'
        f'<div class="pair">{"".join(charts)}</div></section>'
    )


def _load(step: Step) -> str:
    rows = [
        [kind, f"{found.sent:,}", f"{found.bad:,}",
         *(f"{found.latency_ms[name]:,.1f}" for name in ("p50", "p99", "max"))]
        for kind, found in step.kinds.items()
    ]  # fmt: skip
    heads = ["kind of request", "sent", "errors", "p50 ms", "p99 ms", "max ms"]
    return (
        f"<section><h2>The load beside it, {step.rate:,.1f} requests a second</h2>"
        '<p class="about">By the generator of recsys loadtest: an open loop, latency from the '
        f'moment a request was due.</p><div class="card">{table(heads, rows)}</div></section>'
    )


def _reading(result: ProbeResult) -> str:
    settings = result.settings
    return (
        '<section id="reading"><h2>How to read it</h2><ul class="notes">'
        "<li>Tracers begin at the moments of a Poisson process that is drawn before anything is "
        "sent: they see the system as it is on average.</li>"
        f"<li>A change is seen when {settings['in_a_row']} answers in a row show it; the first of "
        "them counts. Every question goes over a connection of its own, so that each of several "
        "API processes is asked.</li>"
        f"<li>Between two questions pass {settings['poll_ms']:g} ms or a twentieth of the time "
        "since the event, whichever is more, and the answer’s own time; “to within” is the median "
        "of what that came to.</li>"
        "<li>Answers from a lower rung than full, and questions that failed, are evidence of "
        "nothing: they are counted, and asked again.</li>"
        f"<li>What is not seen in {settings['timeout_s']:g} s is lost. It stays in the percentiles "
        "as longer than that: “&gt;” marks those that lie beyond.</li>"
        "<li>A percentile needs events: below a hundred, p99 is the longest of them.</li>"
        "</ul></section>"
    )


def _watched(result: ProbeResult, path: str) -> list[Observation]:
    outcomes = ("seen", "lost", "interrupted")
    return [o for o in result.observations if o.path == path and o.outcome in outcomes]
