"""The report as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from itertools import groupby

from recsys.evaluation.charts import (
    bar_chart,
    curve_chart,
    interval_chart,
    legend,
    reliability_chart,
)
from recsys.evaluation.html_page import html_page
from recsys.evaluation.report_document import (
    Comparison,
    Exposure,
    Figure,
    Gap,
    ProbabilityTable,
    Report,
    Segment,
    ViewTable,
)
from recsys.evaluation.report_features import features_section

_VIEWS = {
    "repeats_allowed": ("Repeats allowed", "relevant is everything taken in the test period"),
    "new_items_only": (
        "New items only",
        "relevant is what the user had not had before, and lists leave out what she had",
    ),
}
_METRICS = {"recall": "Recall", "ndcg": "NDCG", "hit_rate": "HR", "mrr": "MRR", "map": "MAP"}
_LISTS = {
    "coverage": ("coverage", 3), "gini": ("Gini", 3), "novelty_bits": ("novelty (bits)", 2),
    "vector_diversity": ("diversity (vectors)", 3),
    "category_diversity": ("diversity (categories)", 3),
    "average_popularity": ("popularity (interactions)", 1),
    "popularity_lift": ("popularity lift", 2),
}  # fmt: skip
_MAIN = "ndcg"


def page(report: Report) -> str:
    """Give the page."""
    body = [
        _head(report),
        *(_view(report, table) for table in report.views),
        _against(report),
        _segments(report, "users"),
        _segments(report, "items"),
        _exposure(report),
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
        ("learned from", f"{_day(report.data_from_ms)} to {_day(report.test_from_ms)}"),
        ("tested on", f"{_day(report.test_from_ms)} to {_day(report.test_until_ms)}"),
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


def _view(report: Report, table: ViewTable) -> str:
    title, about = _VIEWS.get(table.view, (table.view, ""))
    k = report.k
    chart = interval_chart(
        [(_name(r.name), [r.figures.get(_MAIN)]) for r in table.rows],
        axis=f"NDCG@{k}, mean and 95 % interval", series=["NDCG"],
    )  # fmt: skip
    heads = "".join(f"<th class=num>{m}@{k}</th>" for m in _METRICS.values())
    lines = "".join(
        f"<tr{_ours(r.name)}><th>{escape(_name(r.name))}</th>"
        + "".join(_cell(r.figures.get(metric)) for metric in _METRICS)
        + "".join(
            f"<td class=num>{r.keeping_unseen.get(m, float('nan')):.4f}</td>"
            for m in ("recall", "ndcg")
        )
        + "</tr>"
        for r in table.rows
    )
    lists_head = "".join(f"<th class=num>{title}</th>" for title, _ in _LISTS.values())
    lists = "".join(
        f"<tr{_ours(r.name)}><th>{escape(_name(r.name))}</th>"
        + "".join(_plain(r.lists.get(key), digits) for key, (_, digits) in _LISTS.items())
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


def _against(report: Report) -> str:
    other = report.against
    head = '<section id="against"><h2>Against the other bundle</h2>'
    if other is None:
        said = "No bundle was live: there is nothing to compare with."
        return f'{head}<p class="about">{said}</p></section>'
    until = f", learned from data until {_day(other.data_until_ms)}" if other.data_until_ms else ""
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
    title, _ = _VIEWS.get(found.view, (found.view, ""))
    chart = interval_chart(
        [(f"{m}@{report.k}", [found.difference.get(key)]) for key, m in _METRICS.items()],
        axis="this bundle less the other, mean and 95 % interval", series=["difference"],
        zero_line=True,
    )  # fmt: skip
    lines = "".join(
        f"<tr><th>{m}@{report.k}</th>{_cell(found.ours.get(key))}{_cell(found.theirs.get(key))}"
        f"{_difference(found.difference.get(key))}</tr>"
        for key, m in _METRICS.items()
    )
    lists = "".join(
        f"<tr><th>{title_}</th>{_plain(found.our_lists.get(key), digits)}"
        f"{_plain(found.their_lists.get(key), digits)}<td></td></tr>"
        for key, (title_, digits) in _LISTS.items()
    )
    return (
        f'<div class="card"><h3>{escape(title)} <small>{found.num_users:,} users</small></h3>'
        f'<div class="pair"><div>{chart}</div><div class="scroll"><table><thead><tr><th></th>'
        "<th class=num>this</th><th class=num>other</th><th class=num>difference</th></tr>"
        f"</thead><tbody>{lines}{lists}</tbody></table></div></div></div>"
    )


def _segments(report: Report, of: str) -> str:
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
        parts.append(f"<h3>{escape(_VIEWS.get(view, (view, ''))[0])}</h3>")
        parts += [_segment(report, s) for s in segments]
    return "".join(parts) + "</section>"


def _segment(report: Report, found: Segment) -> str:
    compared = any(row.difference for row in found.rows)
    chart = interval_chart(
        [(row.group, [row.figures.get(_MAIN)]) for row in found.rows],
        axis=f"NDCG@{report.k}", series=["NDCG"],
    )  # fmt: skip
    head = "".join(f"<th class=num>{_METRICS[m]}@{report.k}</th>" for m in ("recall", _MAIN))
    if compared:
        head += "<th class=num>NDCG less the other's</th>"
    lines = []
    for row in found.rows:
        cells = f"<th>{escape(row.group)}</th><td class=num>{row.num_users:,}</td>"
        if not row.is_enough:
            cells += f'<td colspan="{3 if compared else 2}" class="none">too few</td>'
        else:
            cells += "".join(_cell(row.figures.get(m)) for m in ("recall", _MAIN))
            if compared:
                cells += _difference(row.difference.get(_MAIN))
        lines.append(f"<tr>{cells}</tr>")
    return (
        f'<div class="card"><h4>{escape(found.by)}</h4><p class="about">{escape(found.about)}. '
        f'{_gap(found.gap)}</p><div class="pair"><div>{chart}</div><div class="scroll"><table>'
        f"<thead><tr><th>group</th><th class=num>users</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></div></div>"
    )


def _exposure(report: Report) -> str:
    if not report.exposure:
        return ""
    parts = [
        '<section id="exposure"><h2>Exposure</h2><p class="about">Which groups of items get the '
        "places, those higher up counting more, beside their share of the items on offer and of "
        "what users took in the test.</p>"
    ]
    for view, found in groupby(report.exposure, key=lambda e: e.view):
        parts.append(f"<h3>{escape(_VIEWS.get(view, (view, ''))[0])}</h3>")
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
        f"{_plain(g.per_item, 2)}{_plain(g.per_relevant, 2)}</tr>"
        for g in found.groups
    )
    return (
        f'<div class="card"><h4>{escape(found.by)}</h4><p class="about">{escape(found.about)}. '
        f'{_gap(found.gap_per_item)} {_gap(found.gap_per_relevant)}</p><div class="pair"><div>'
        f"{legend(series, bars=True)}{bar_chart(rows, axis='share', series=series)}</div>"
        '<div class="scroll"><table><thead><tr><th>group</th><th class=num>items</th>'
        "<th class=num>exposure per item</th><th class=num>exposure per item taken</th></tr>"
        f"</thead><tbody>{lines}</tbody></table></div></div></div>"
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
        f"<tr><th>{title}</th>{_plain(found.figures.get(key), 4)}</tr>"
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


def _cell(figure: Figure | None, *, signed: bool = False) -> str:
    if figure is None:
        return '<td class="num"></td>'
    sign = "+" if signed else ""
    mean = f"{figure.mean:{sign}.4f}".replace("-", "−")
    low, high = (f"{v:{sign}.3f}".replace("-", "−") for v in (figure.low, figure.high))
    return f'<td class="num">{mean}<span class="range">{low} … {high}</span></td>'


def _plain(value: float | None, digits: int) -> str:
    text = "" if value is None else f"{value:,.{digits}f}".replace("-", "−")
    return f'<td class="num">{text}</td>'


def _difference(figure: Figure | None) -> str:
    """Give the cell of a difference, with what can be said of it below."""
    cell = _cell(figure, signed=True)
    if figure is None:
        return cell
    if figure.low > 0:
        said = '<span class="verdict better">better</span>'
    elif figure.high < 0:
        said = '<span class="verdict worse">worse</span>'
    else:
        said = '<span class="verdict">none seen</span>'
    return f"{cell.removesuffix('</td>')}{said}</td>"


def _gap(gap: Gap | None) -> str:
    if gap is None:
        return ""
    ratio = "" if gap.ratio is None else f", ratio {gap.ratio:.2f}"
    name = _METRICS.get(gap.metric, gap.metric)
    return (
        f"Gap in {escape(name)}: {gap.difference:.3f} between {escape(gap.best)} and "
        f"{escape(gap.worst)}{ratio}."
    )


def _name(recommender: str) -> str:
    return {"served": "this bundle"}.get(recommender, recommender.replace("_", " "))


def _ours(recommender: str) -> str:
    return ' class="ours"' if recommender == "served" else ""


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}".removesuffix(" 00:00")
