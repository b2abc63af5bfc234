"""The profile as one HTML page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

from recsys.features.aggregation import Aggregate
from recsys.features.quality.bars import figure, number
from recsys.features.quality.check import Finding
from recsys.features.quality.moments import age, spelt
from recsys.features.quality.profile import Source, ViewProfile
from recsys.features.quality.statistics import QUANTILES, Distribution, FeatureProfile, Plot

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser itself refuses to load anything."""


def page(
    project: str, moment_ms: int, sources: Sequence[Source], notes: Sequence[str],
    profiles: Sequence[ViewProfile],
) -> str:  # fmt: skip
    """Give the page; ``notes`` say of each source where it is from and how much it saw."""
    style = resources.files(__package__).joinpath("profile.css").read_text()
    names = [source.name for source in sources]
    legend = "".join(
        f'<li><span class="swatch s{s}"></span><b>{escape(name)}</b> {escape(note)}</li>'
        for s, (name, note) in enumerate(zip(names, notes, strict=True))
    )
    title = f"Features of {project} at {_moment(moment_ms)}"
    body = [
        f"<h1>Features of {escape(project)}</h1>",
        f'<p class="lead">at {_moment(moment_ms)} UTC</p><ul class="legend">{legend}</ul>',
        _overview(profiles, names, moment_ms),
        _failures(profiles),
        *(_view(p, names) for p in profiles),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _overview(profiles: Sequence[ViewProfile], names: Sequence[str], moment_ms: int) -> str:
    rows = []
    for p in profiles:
        for s, name in enumerate(names):
            link = f'<a href="#{escape(p.view.name)}">{escape(p.view.name)}</a>' if s == 0 else ""
            newest = p.newest_ms[s]
            ago = "none" if newest is None else f"{age(moment_ms - newest)} ago"
            source = f"<td>{escape(name)}</td>" if len(names) > 1 else ""
            rows.append(
                f"<tr><th>{link}</th>{source}"
                f"<td class='num spare'>{len(p.features) if s == 0 else ''}</td>"
                f"<td class=num>{_count(p.num_entities[s])}</td>"
                f"<td class='num spare'>{_count(p.num_expired[s])}</td><td class=num>{ago}</td>"
                f"<td>{_badge(p.findings[s])}</td></tr>"
            )
    source = "<th>source</th>" if len(names) > 1 else ""
    return (
        f'<div class="wide"><table class="overview"><thead><tr><th>view</th>{source}'
        "<th class='num spare'>features</th><th class=num>entities</th>"
        "<th class='num spare'>expired</th>"
        f"<th class=num>newest event</th><th>rules</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _failures(profiles: Sequence[ViewProfile]) -> str:
    failed = [f for p in profiles for found in p.findings for f in found if not f.passed]
    if not failed:
        return ""
    items = "".join(
        f'<li><a href="#{escape(_anchor(f.view, f.feature))}">{escape(_name(f))}</a> '
        f"{escape(_said(f))}</li>"
        for f in failed
    )
    return f'<section class="failures"><h2>Rules that do not hold</h2><ul>{items}</ul></section>'


def _view(p: ViewProfile, names: list[str]) -> str:
    view = p.view
    ttl = f"TTL {age(view.ttl_ms)}" if view.ttl_ms else "no TTL"
    keys = ", ".join(view.join_keys)
    rows = [
        ("entities", [_count(n) for n in p.num_entities]),
        ("expired", [_count(n) for n in p.num_expired]),
        *_quantile_rows(p.ages),
    ]
    of_view = [f for found in p.findings for f in found if not f.feature]
    fresh = (
        '<article class="feature"><h3>freshness <small>time since the newest event of each '
        f"entity</small></h3>{figure(p.ages, names)}{_tables(names, rows[:2], rows[2:])}"
        f"{_verdicts(p, '', names) if of_view else ''}</article>"
    )
    cards = "".join(_feature(p, f, names) for f in p.features)
    return (
        f'<section class="view" id="{escape(view.name)}"><h2>{escape(view.name)}</h2>'
        f'<p class="about">keyed by {escape(keys)} · {ttl} · {len(p.features)} features</p>'
        f'<div class="cards">{fresh}{cards}</div></section>'
    )


def _feature(p: ViewProfile, feature: FeatureProfile, names: list[str]) -> str:
    first, *others = feature.plots
    name = feature.feature.name
    aggregate = next((a for a in p.view.aggregates if a.name == name), None)
    about = feature.feature.type if aggregate is None else meaning(aggregate)
    left = [
        ("entities", [_count(s.num) for s in feature.summaries]),
        ("null", [_share(s.num_null, s.num) for s in feature.summaries]),
    ]
    if all(s.num_zero is not None for s in feature.summaries):
        is_list = feature.feature.type.endswith("_list")
        shares = [_share(s.num_zero or 0, s.num) for s in feature.summaries]
        left.append(("empty" if is_list else "zero", shares))
    left.append(("distinct", [_count(s.num_distinct) for s in feature.summaries]))
    left.append(("mean", [number(d.mean, first.unit) for d in first.distributions]))
    what = "" if first.of == "value" else f"<h4>{escape(first.of)}</h4>"
    found = [f for findings in p.findings for f in findings if f.feature == name]
    return (
        f'<article class="feature" id="{escape(_anchor(p.view.name, name))}">'
        f"<h3>{escape(name)} <small>{escape(about)}</small> {_badge(found)}</h3>"
        f"{what}{figure(first, names)}{_tables(names, left, _quantile_rows(first))}"
        f"{''.join(_more(plot, names) for plot in others)}{_top(feature, names)}"
        f"{_verdicts(p, name, names)}</article>"
    )


def meaning(aggregate: Aggregate) -> str:
    """Say what an aggregate is.

    >>> meaning(Aggregate(name="n", column="interaction__purchase", function="count",
    ...                   window_ms=86_400_000, slide_ms=3_600_000))
    'count of interaction purchase over 1 d, by 1 h'
    """
    column = aggregate.column.replace("__", " ")
    window, slide = age(aggregate.window_ms), age(aggregate.slide_ms)
    return f"{aggregate.function} of {column} over {window}, by {slide}"


def _more(plot: Plot, names: list[str]) -> str:
    """Give a further histogram of a feature: its elements, or one column of a vector."""
    said = "; ".join(_in_short(d, plot) for d in plot.distributions)
    return f"<h4>{escape(plot.of)} <small>{escape(said)}</small></h4>{figure(plot, names)}"


def _in_short(d: Distribution, plot: Plot) -> str:
    if not d.num:
        return "no values"
    median = d.quantiles[QUANTILES.index(0.5)]
    low, middle, high = (number(v, plot.unit) for v in (d.minimum, median, d.maximum))
    return f"min {low}, median {middle}, max {high}"


def _top(feature: FeatureProfile, names: list[str]) -> str:
    if not feature.top:
        return ""
    rows = [(value if value else "(empty)", [_count(n) for n in num]) for value, num in feature.top]
    is_list = feature.feature.type.endswith("_list")
    head = "commonest elements" if is_list else "commonest values"
    return f'<h4>{head}</h4><div class="tables top">{_table(names, rows)}</div>'


def _quantile_rows(plot: Plot) -> list[tuple[str, list[str]]]:
    ds = plot.distributions
    rows = [("min", [number(d.minimum, plot.unit) for d in ds])]
    for n, q in enumerate(QUANTILES):
        name = "median" if q == 0.5 else f"{100 * q:g} %"
        rows.append((name, [number(d.quantiles[n], plot.unit) for d in ds]))
    rows.append(("max", [number(d.maximum, plot.unit) for d in ds]))
    return rows


def _tables(names: Sequence[str], *parts: Sequence[tuple[str, list[str]]]) -> str:
    if len(names) > 1:  # two columns of numbers: one table below the other, under one head
        parts = ([row for rows in parts for row in rows],)
    return f'<div class="tables">{"".join(_table(names, rows) for rows in parts)}</div>'


def _table(names: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    head = ""
    if len(names) > 1:
        cells = "".join(f"<th class=num>{escape(name)}</th>" for name in names)
        head = f"<thead><tr><th></th>{cells}</tr></thead>"
    lines = "".join(
        f"<tr><th>{escape(label)}</th>"
        + "".join(f"<td class=num>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for label, cells in rows
    )
    return f"<table>{head}<tbody>{lines}</tbody></table>"


def _verdicts(p: ViewProfile, feature: str, names: Sequence[str]) -> str:
    items = []
    for name, found in zip(names, p.findings, strict=True):
        for f in found:
            if f.feature == feature:
                word = "pass" if f.passed else "fail"
                source = f"{name}: " if len(names) > 1 else ""
                said = escape(f"{source}{_said(f)}")
                items.append(f'<li><span class="{word}">{word.upper()}</span> {said}</li>')
    return f'<ul class="verdicts">{"".join(items)}</ul>' if items else ""


def _said(f: Finding) -> str:
    offender = ""
    if not f.passed:
        offender = f"; {_count(f.num_violations)} of {_count(f.num_values)}" if f.feature else ""
        offender += f", first {f.first_offender}" if f.first_offender else ""
    return f"{f.rule} {f.wanted}, found {f.found}{offender}"


def _badge(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    failed = sum(not f.passed for f in findings)
    if failed:
        return f'<span class="fail">{failed} of {len(findings)} FAIL</span>'
    return f'<span class="pass">{len(findings)} PASS</span>'


def _name(finding: Finding) -> str:
    return f"{finding.view}:{finding.feature}" if finding.feature else finding.view


def _anchor(view: str, feature: str) -> str:
    return f"{view}.{feature}" if feature else view


def _count(num: int) -> str:
    return f"{num:,}"


def _share(part: int, whole: int) -> str:
    if not whole or not part:
        return "0 %"
    share = 100 * part / whole
    return f"{share:.2g} %" if share < 1 else f"{share:.1f} %"


def _moment(moment_ms: int) -> str:
    return spelt(moment_ms).replace("T", " ").removesuffix("Z")
