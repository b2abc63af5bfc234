"""The report's section on the features a bundle learned from."""

from __future__ import annotations

from html import escape

from recsys.evaluation.report_document import FeaturesTable

_SHOWN = 20


def features_section(found: FeaturesTable | None) -> str:
    """Give the section as HTML; "" where nobody looked at the features."""
    if found is None:
        return ""
    rules = f"{found.num_rules - len(found.broken)} of {found.num_rules} declared rules hold"
    broken = "".join(f"<li>{escape(text)}</li>" for text in found.broken)
    head = f'<section id="features"><h2>Features</h2><p class="about">{rules}.</p>' + (
        f'<ul class="notes">{broken}</ul>' if broken else ""
    )
    if found.against is None or found.note:
        return f'{head}<p class="about">{escape(found.note)}.</p></section>'
    lines = "".join(
        f"<tr><th>{escape(row.view)}:{escape(row.feature)}</th>"
        f"<td class=num>{_number(row.drift)}</td><td class=num>{_share(row.null_share_before)}</td>"
        f"<td class=num>{_share(row.null_share)}</td></tr>"
        for row in found.rows[:_SHOWN]
    )
    left_out = len(found.rows) - _SHOWN
    more = f'<p class="about">{left_out} more move less.</p>' if left_out > 0 else ""
    return (
        f'{head}<p class="about">Since {escape(found.against)} learned: {found.num_since:,} '
        f"interactions beside {found.num_before:,} of an equally long time before. Drift is the "
        "Jensen–Shannon divergence in bits: 0 the same, 1 nothing in common.</p>"
        '<div class="card"><div class="scroll"><table><thead><tr><th>feature</th>'
        "<th class=num>drift</th><th class=num>empty before</th><th class=num>empty since</th></tr>"
        f"</thead><tbody>{lines}</tbody></table></div>{more}</div></section>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
