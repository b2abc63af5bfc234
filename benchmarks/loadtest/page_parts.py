"""Parts of the page that stand by themselves: tables, the waterfall of stages, the processes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.loadtest.result import Step
from recsys.evaluation.charts import number, ticks

_ROW, _LABEL, _WIDTH, _RIGHT = 26, 150, 900, 90


def head_section(
    title: str, lead: str, facts: Sequence[tuple[str, object]], notes: Sequence[str]
) -> str:
    """Give what a page begins with: what was found, on what, and what to know of it."""
    cells = "".join(f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in facts)
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(lead)}</p><dl class="facts">{cells}</dl>'
        + (f'<ul class="notes">{said}</ul>' if said else "")
        + "</header>"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Give a table whose first ``words`` columns are names and whose others are numbers."""
    top = "".join(
        f"<th{'' if n < words else ' class=num'}>{escape(head)}</th>"
        for n, head in enumerate(heads)
    )
    lines = "".join(
        "<tr>"
        + "".join(
            f"<th>{escape(cell)}</th>" if n < words else f'<td class="num">{escape(cell)}</td>'
            for n, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )


def stages_section(step: Step) -> str:
    """Draw stages one after the other, each as long as it takes a request on average."""
    rows = [(name, stage.mean_ms, stage.count) for name, stage in step.stages.items()]
    whole = step.latency_ms["mean"]
    inside = sum(mean for _, mean, _ in rows)
    scale = (_WIDTH - _LABEL - _RIGHT) / max(whole, inside, 1e-9)
    bottom = (len(rows) + 2) * _ROW + 6
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {bottom + 36}" role="img" '
        f'style="max-width:{_WIDTH}px" aria-label="mean time of each stage">'
    ]
    for tick in ticks(0.0, max(whole, inside), most=7):
        at = _LABEL + tick * scale
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="{bottom}"/>'
            f'<text class="tick" x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{number(tick)}</text>"
        )
    begin = 0.0
    for place, (name, mean, _) in enumerate(rows):
        parts.append(_bar(place, name, begin, mean, scale, "s0"))
        begin += mean
    parts.append(_bar(len(rows), "elsewhere", begin, max(whole - inside, 0.0), scale, "s1"))
    parts.append(_bar(len(rows) + 1, "whole request", 0.0, whole, scale, "s2"))
    parts.append(
        f'<text class="axis" x="{(_LABEL + _WIDTH - _RIGHT) / 2}" y="{bottom + 32}" '
        'text-anchor="middle">mean milliseconds of a request</text></svg>'
    )
    heads = ["stage", "mean ms of a request", "p99 ms of the stage", "times"]
    lines = [
        [name, f"{s.mean_ms:.3f}", "" if s.p99_ms is None else f"{s.p99_ms:.2f}", f"{s.count:,.0f}"]
        for name, s in step.stages.items()
    ]
    return (
        f"<section><h2>Where the time went, {step.rate:,.1f} requests a second</h2>"
        '<p class="about">Stages as the service says; “elsewhere” is what they leave of the whole '
        "request as its caller saw it: queues, network, HTTP, the generator’s lateness.</p>"
        f'<div class="card">{"".join(parts)}{table(heads, lines)}</div></section>'
    )


def processes_section(step: Step) -> str:
    """Say what each process used."""
    rows = [
        [name, f"{p.cores:.2f}", f"{p.busiest_thread:.2f}", f"{p.rss_mib:,.1f}",
         f"{p.grown_mib:+,.1f}", f"{1e3 * p.cores * step.duration_s / max(step.sent, 1):.2f}"]
        for name, p in step.processes.items()
    ]  # fmt: skip
    heads = ["process", "cores used", "its busiest thread", "memory, MiB", "grown by, MiB",
             "CPU ms a request"]  # fmt: skip
    return (
        f"<section><h2>Who was busy, {step.rate:,.1f} requests a second</h2>"
        f'<div class="card">{table(heads, rows)}</div></section>'
    )


def _bar(row: int, name: str, begin: float, length: float, scale: float, kind: str) -> str:
    top = row * _ROW + 4
    left, wide = _LABEL + begin * scale, max(length * scale, 1.0)
    short = name if len(name) <= 20 else name[:19] + "…"
    return (
        f'<text class="label" x="{_LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(short)}'
        f'</text><rect class="bar {kind}" x="{left:.1f}" y="{top}" width="{wide:.1f}" '
        f'height="18"><title>{escape(name)}: {length:.3f} ms</title></rect>'
        f'<text class="tick" x="{left + wide + 6:.1f}" y="{top + 14}">{length:.2f} ms</text>'
    )
