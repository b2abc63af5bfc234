"""The report's sections on how good the lists are, alone and beside another bundle's."""

from __future__ import annotations

from html import escape

from recsys.evaluation.charts import interval_chart
from recsys.evaluation.report_cells import (
    LISTS,
    MAIN,
    METRICS,
    VIEWS,
    day,
    difference_cell,
    figure_cell,
    number_cell,
    recommender_name,
    row_class,
)
from recsys.evaluation.report_document import Comparison, Report, ViewTable


def view_section(report: Report, table: ViewTable) -> str:
    """Give the section of one way to judge: every recommender's figures and lists."""
    title, about = VIEWS.get(table.view, (table.view, ""))
    k = report.k
    chart = interval_chart(
        [(recommender_name(r.name), [r.figures.get(MAIN)]) for r in table.rows],
        axis=f"NDCG@{k}, mean and 95 % interval", series=["NDCG"],
    )  # fmt: skip
    heads = "".join(f"<th class=num>{m}@{k}</th>" for m in METRICS.values())
    lines = "".join(
        f"<tr{row_class(r.name)}><th>{escape(recommender_name(r.name))}</th>"
        + "".join(figure_cell(r.figures.get(metric)) for metric in METRICS)
        + "".join(
            f"<td class=num>{r.keeping_unseen.get(m, float('nan')):.4f}</td>"
            for m in ("recall", "ndcg")
        )
        + "</tr>"
        for r in table.rows
    )
    lists_head = "".join(f"<th class=num>{title}</th>" for title, _ in LISTS.values())
    lists = "".join(
        f"<tr{row_class(r.name)}><th>{escape(recommender_name(r.name))}</th>"
        + "".join(number_cell(r.lists.get(key), digits) for key, (_, digits) in LISTS.items())
        + "</tr>"
        for r in table.rows
    )
    users = table.rows[0].num_users if table.rows else 0
    return (
        f'<section id="{escape(table.view)}"><h2>{escape(title)}</h2>'
        f'<p class="about">{users:,} users; {about}.</p>'
        f'<div class="card"><div class="stack"><div>{chart}</div><div class="scroll"><table>'
        f"<thead><tr><th>recommender</th>{heads}<th class=num>Recall, all</th>"
        f"<th class=num>NDCG, all</th></tr></thead><tbody>{lines}</tbody></table></div></div>"
        '<p class="about">“all” keeps items relevant that nobody had before the test.</p></div>'
        f'<div class="card"><h3>What the lists are like</h3><div class="scroll"><table><thead><tr>'
        f"<th>recommender</th>{lists_head}</tr></thead><tbody>{lists}</tbody></table></div></div>"
        "</section>"
    )


def against_section(report: Report) -> str:
    """Give the section that lays this bundle beside another."""
    other = report.against
    head = '<section id="against"><h2>Against the other bundle</h2>'
    if other is None:
        said = "No bundle was live: there is nothing to compare with."
        return f'{head}<p class="about">{said}</p></section>'
    until = f", learned from data until {day(other.data_until_ms)}" if other.data_until_ms else ""
    called = "the live bundle" if other.called in ("live", "champion") else "bundle"
    about = f"{called} {other.bundle_id}{', recipe ' + other.recipe if other.recipe else ''}{until}"
    if other.refused:
        return (
            f'{head}<p class="about">{escape(about)}.</p><div class="card"><b>Not compared:</b> '
            f"{escape(other.refused)}.</div></section>"
        )
    cards = "".join(_comparison(report, c) for c in other.views)
    return f'{head}<p class="about">{escape(about)}; same users, same items.</p>{cards}</section>'


def _comparison(report: Report, found: Comparison) -> str:
    title, _ = VIEWS.get(found.view, (found.view, ""))
    chart = interval_chart(
        [(f"{m}@{report.k}", [found.difference.get(key)]) for key, m in METRICS.items()],
        axis="this bundle less the other, mean and 95 % interval", series=["difference"],
        zero_line=True,
    )  # fmt: skip
    lines = "".join(
        f"<tr><th>{m}@{report.k}</th>{figure_cell(found.ours.get(key))}{figure_cell(found.theirs.get(key))}"
        f"{difference_cell(found.difference.get(key))}</tr>"
        for key, m in METRICS.items()
    )
    lists = "".join(
        f"<tr><th>{title_}</th>{number_cell(found.our_lists.get(key), digits)}"
        f"{number_cell(found.their_lists.get(key), digits)}<td></td></tr>"
        for key, (title_, digits) in LISTS.items()
    )
    return (
        f'<div class="card"><h3>{escape(title)} <small>{found.num_users:,} users</small></h3>'
        f'<div class="pair"><div>{chart}</div><div class="scroll"><table><thead><tr><th></th>'
        "<th class=num>this</th><th class=num>other</th><th class=num>difference</th></tr>"
        f"</thead><tbody>{lines}{lists}</tbody></table></div></div></div>"
    )
