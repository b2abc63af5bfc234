"""What the report's tables are made of: names of what is measured, and their cells."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from recsys.evaluation.report_document import Figure, Gap

VIEWS = {
    "repeats_allowed": ("Repeats allowed", "relevant is everything taken in the test period"),
    "new_items_only": (
        "New items only",
        "relevant is what the user had not had before, and lists leave out what she had",
    ),
}
METRICS = {"recall": "Recall", "ndcg": "NDCG", "hit_rate": "HR", "mrr": "MRR", "map": "MAP"}
LISTS = {
    "coverage": ("coverage", 3), "gini": ("Gini", 3), "novelty_bits": ("novelty (bits)", 2),
    "vector_diversity": ("diversity (vectors)", 3),
    "category_diversity": ("diversity (categories)", 3),
    "average_popularity": ("popularity (interactions)", 1),
    "popularity_lift": ("popularity lift", 2),
}  # fmt: skip
MAIN = "ndcg"


def figure_cell(figure: Figure | None, *, signed: bool = False) -> str:
    """Give the cell of a mean with its interval; an empty one for nothing."""
    if figure is None:
        return '<td class="num"></td>'
    sign = "+" if signed else ""
    mean = f"{figure.mean:{sign}.4f}".replace("-", "−")
    low, high = (f"{v:{sign}.3f}".replace("-", "−") for v in (figure.low, figure.high))
    return f'<td class="num">{mean}<span class="range">{low} … {high}</span></td>'


def number_cell(value: float | None, digits: int) -> str:
    """Give the cell of a number; an empty one for nothing."""
    text = "" if value is None else f"{value:,.{digits}f}".replace("-", "−")
    return f'<td class="num">{text}</td>'


def difference_cell(figure: Figure | None) -> str:
    """Give the cell of a difference, with what can be said of it below."""
    cell = figure_cell(figure, signed=True)
    if figure is None:
        return cell
    if figure.low > 0:
        said = '<span class="verdict better">better</span>'
    elif figure.high < 0:
        said = '<span class="verdict worse">worse</span>'
    else:
        said = '<span class="verdict">none seen</span>'
    return f"{cell.removesuffix('</td>')}{said}</td>"


def gap_said(gap: Gap | None) -> str:
    """Say how far the best and the worst group are apart; "" where nobody looked."""
    if gap is None:
        return ""
    ratio = "" if gap.ratio is None else f", ratio {gap.ratio:.2f}"
    name = METRICS.get(gap.metric, gap.metric)
    return (
        f"Gap in {escape(name)}: {gap.difference:.3f} between {escape(gap.best)} and "
        f"{escape(gap.worst)}{ratio}."
    )


def recommender_name(recommender: str) -> str:
    """Give a recommender's name for people."""
    return {"served": "this bundle"}.get(recommender, recommender.replace("_", " "))


def row_class(recommender: str) -> str:
    """Give the attribute of a row that is of this bundle."""
    return ' class="ours"' if recommender == "served" else ""


def day(time_ms: int) -> str:
    """Give a moment as a day, with the time unless it is midnight."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}".removesuffix(" 00:00")
