"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from html import escape
from itertools import groupby

from recsys.evaluation.charts import curve_chart, reliability_chart
from recsys.evaluation.html_page import html_page
from recsys.evaluation.report_cells import day, number_cell
from recsys.evaluation.report_document import ProbabilityTable, Report
from recsys.evaluation.report_features import features_section
from recsys.evaluation.report_groups import exposure_section, segments_section
from recsys.evaluation.report_views import against_section, view_section


def page(report: Report) -> str:
    """Give the page."""
    body = [
        _head(report),
        *(view_section(report, table) for table in report.views),
        against_section(report),
        segments_section(report, "users"),
        segments_section(report, "items"),
        exposure_section(report),
        _probabilities(report),
        features_section(report.features),
        _training(report),
        _reading(report),
    ]
    return html_page(
        f"Report of bundle {report.bundle_id}", "\n".join(part for part in body if part)
    )


def _head(report: Report) -> str:
    facts = [
        ("recipe", f"{report.recipe}, seed {report.seed}"),
        ("data set", report.dataset),
        ("learned from", f"{day(report.data_from_ms)} to {day(report.test_from_ms)}"),
        ("tested on", f"{day(report.test_from_ms)} to {day(report.test_until_ms)}"),
        (
            "users judged",
            f"{report.num_test_users:,} (and {report.num_new_users:,} new ones apart)",
        ),
        ("items", f"{report.num_items:,}"),
        ("code", report.code_version),
    ]
    cells = "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    links = [
        ("against", "Against the other bundle"), ("users", "Groups of users"),
        ("items", "Groups of items"), ("exposure", "Exposure"),
        ("probabilities", "Probabilities"), ("features", "Features"), ("training", "Training"),
        ("reading", "How to read it"),
    ]  # fmt: skip
    nav = "".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in links)
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    if report.num_users_left_out:
        notes += f"<li>{report.num_users_left_out:,} users of the test were left out by chance</li>"
    return (
        f"<header><h1>Report of bundle {escape(report.bundle_id)}</h1>"
        f'<dl class="facts">{cells}</dl><nav>{nav}</nav>'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</header>"
    )


def _probabilities(report: Report) -> str:
    if not report.probabilities:
        return ""
    cards = "".join(_probability(p) for p in report.probabilities)
    rows = escape(report.probabilities[0].rows)
    return (
        '<section id="probabilities"><h2>Probabilities</h2><p class="about">What the ranker said '
        f"of the test's {rows}, in bins of equally many rows, beside what came; whiskers are two "
        f'standard errors, both axes are square roots.</p><div class="cards">{cards}</div>'
        "</section>"
    )


def _probability(found: ProbabilityTable) -> str:
    names = {
        "expected_calibration_error": "calibration error (ECE)", "log_loss": "log loss (nats)",
        "auc": "AUC", "grouped_auc": "gAUC, within users",
        "mean_probability": "mean probability", "observed_rate": "observed rate",
    }  # fmt: skip
    lines = "".join(
        f"<tr><th>{title}</th>{number_cell(found.figures.get(key), 4)}</tr>"
        for key, title in names.items()
    )
    num = sum(b.num_rows for b in found.bins)
    return (
        f'<div class="card"><h3>{escape(found.objective)} <small>{num:,} rows</small></h3>'
        f"{reliability_chart(found.bins)}<table><tbody>{lines}</tbody></table></div>"
    )


def _training(report: Report) -> str:
    if not report.curve:
        return ""
    cards = ""
    for phase, points in groupby(report.curve, key=lambda p: p.phase):
        cards += f'<div class="card"><h3>{escape(phase)}</h3>{curve_chart(list(points))}</div>'
    return (
        '<section id="training"><h2>Training</h2><p class="about">Mean loss of each epoch; phases '
        f'have losses of their own and do not compare.</p><div class="cards">{cards}</div>'
        "</section>"
    )


def _reading(report: Report) -> str:
    groups = sum(len(s.rows) for s in report.segments)
    return (
        '<section id="reading"><h2>How to read it</h2><ul class="notes">'
        "<li>Every item competes (full ranking), with features as of the last millisecond before "
        "the test. Means are over users; intervals are where 95 % of 500 bootstrap resamples of "
        "users lie, and say nothing of another period or another seed.</li>"
        "<li>Differences are taken user by user, so their intervals are narrower than two "
        "intervals side by side suggest: look at whether the difference's own holds 0.</li>"
        f"<li>{groups:,} groups are shown. Of that many, about one in twenty would differ from "
        "another bundle by chance alone: a group is a question, not yet an answer.</li>"
        "<li>A group with fewer than 30 users who had something to find is not judged.</li>"
        "<li>Formulas and sources of every measure: docs/evaluation.md of the project.</li>"
        "</ul></section>"
    )
