"""The report's sections on groups of users and items: who is served how well, what is shown."""

from __future__ import annotations

from html import escape
from itertools import groupby

from recsys.evaluation.charts import bar_chart, interval_chart, legend
from recsys.evaluation.report_cells import (
    MAIN,
    METRICS,
    VIEWS,
    difference_cell,
    figure_cell,
    gap_said,
    number_cell,
)
from recsys.evaluation.report_document import Exposure, Report, Segment


def segments_section(report: Report, of: str) -> str:
    """Give the section on groups ``of`` users or items; "" where there are none."""
    found = [s for s in report.segments if s.of == of]
    if not found:
        return ""
    title = "Groups of users" if of == "users" else "Groups of items to be found"
    about = (
        "The same lists, by who got them."
        if of == "users"
        else "The same lists; only the relevant items of one group count."
    )
    parts = [f'<section id="{of}"><h2>{title}</h2><p class="about">{about}</p>']
    for view, segments in groupby(found, key=lambda s: s.view):
        parts.append(f"<h3>{escape(VIEWS.get(view, (view, ''))[0])}</h3>")
        parts += [_segment(report, s) for s in segments]
    return "".join(parts) + "</section>"


def _segment(report: Report, found: Segment) -> str:
    compared = any(row.difference for row in found.rows)
    chart = interval_chart(
        [(row.group, [row.figures.get(MAIN)]) for row in found.rows],
        axis=f"NDCG@{report.k}", series=["NDCG"],
    )  # fmt: skip
    head = "".join(f"<th class=num>{METRICS[m]}@{report.k}</th>" for m in ("recall", MAIN))
    if compared:
        head += "<th class=num>NDCG less the other's</th>"
    lines = []
    for row in found.rows:
        cells = f"<th>{escape(row.group)}</th><td class=num>{row.num_users:,}</td>"
        if not row.is_enough:
            cells += f'<td colspan="{3 if compared else 2}" class="none">too few</td>'
        else:
            cells += "".join(figure_cell(row.figures.get(m)) for m in ("recall", MAIN))
            if compared:
                cells += difference_cell(row.difference.get(MAIN))
        lines.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="card"><h4>{escape(found.by)}</h4><p class="about">{escape(found.about)}. '
        f'{gap_said(found.gap)}</p><div class="pair"><div>{chart}</div><div class="scroll"><table>'
        f"<thead><tr><th>group</th><th class=num>users</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></div></div>"
    )


def exposure_section(report: Report) -> str:
    """Give the section on which groups of items get the places; "" where nobody looked."""
    if not report.exposure:
        return ""
    parts = [
        '<section id="exposure"><h2>Exposure</h2><p class="about">Which groups of items get the '
        "places, those higher up counting more, beside their share of the items on offer and of "
        "what users took in the test.</p>"
    ]
    for view, found in groupby(report.exposure, key=lambda e: e.view):
        parts.append(f"<h3>{escape(VIEWS.get(view, (view, ''))[0])}</h3>")
        parts += [_exposed(e) for e in found]
    return "".join(parts) + "</section>"


def _exposed(found: Exposure) -> str:
    series = ["share of exposure", "share of items", "share of what was taken"]
    rows = [
        (g.group, [g.share_of_exposure, g.share_of_items, g.share_of_relevant])
        for g in found.groups
    ]
    lines = "".join(
        f"<tr><th>{escape(g.group)}</th><td class=num>{g.num_items:,}</td>"
        f"{number_cell(g.per_item, 2)}{number_cell(g.per_relevant, 2)}</tr>"
        for g in found.groups
    )
    return (
        f'<div class="card"><h4>{escape(found.by)}</h4><p class="about">{escape(found.about)}. '
        f"{gap_said(found.gap_per_item)} {gap_said(found.gap_per_relevant)}</p>"
        '<div class="pair"><div>'
        f"{legend(series, bars=True)}{bar_chart(rows, axis='share', series=series)}</div>"
        '<div class="scroll"><table><thead><tr><th>group</th><th class=num>items</th>'
        "<th class=num>exposure per item</th><th class=num>exposure per item taken</th></tr>"
        f"</thead><tbody>{lines}</tbody></table></div></div></div>"
    )
