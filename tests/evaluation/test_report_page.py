"""The page says what the document says, loads nothing, and is whole."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from recsys.evaluation.charts import curve_chart, interval_chart, number, reliability_chart, ticks
from recsys.evaluation.report_document import (
    Against,
    Bin,
    Comparison,
    CurvePoint,
    Figure,
    ProbabilityTable,
    RecommenderRow,
    Report,
    Segment,
    SegmentRow,
    ViewTable,
)
from recsys.evaluation.report_page import page

FIGURE = Figure(mean=0.25, low=0.2, high=0.3)
WORSE = Figure(mean=-0.05, low=-0.08, high=-0.01)
VOID = ("meta", "br", "line", "circle", "rect", "polyline")


def report(**changes: object) -> Report:
    figures = dict.fromkeys(("recall", "ndcg", "hit_rate", "mrr", "map"), FIGURE)
    whole = Report(
        bundle_id="0" * 16, recipe="demo", dataset="shop", seed=7, code_version="abc", created_ms=1,
        data_from_ms=0, test_from_ms=86_400_000, test_until_ms=172_800_000, k=20, num_items=5,
        num_test_users=40, num_new_users=2, num_users_left_out=0,
        views=[
            ViewTable(
                view="new_items_only",
                rows=[
                    RecommenderRow(
                        name="served", num_users=40, figures=figures, lists={"coverage": None},
                        keeping_unseen={"recall": 0.1, "ndcg": 0.1},
                    )
                ],
            )
        ],
        segments=[
            Segment(
                view="new_items_only", of="users", by="<country>", about="said", gap=None,
                rows=[
                    SegmentRow(
                        group="fr & de", num_users=40, is_enough=True, figures=figures,
                        difference={"ndcg": WORSE},
                    ),
                    SegmentRow(
                        group="uk", num_users=3, is_enough=False, figures={}, difference={}
                    ),
                ],
            )
        ],
        exposure=[],
        probabilities=[
            ProbabilityTable(
                objective="purchase", rows="candidates", figures={"auc": 0.7},
                bins=[Bin(predicted=0.1, observed=0.12, deviation=0.01, num_rows=100)],
            )
        ],
        against=None, curve=[CurvePoint(phase="towers", epoch=0, loss=1.0)], notes=[],
    )  # fmt: skip
    return whole.model_copy(update=changes)


class Whole(HTMLParser):
    """Fails on an element that is not closed, or closed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {k}" for k, _ in attrs if k in ("src", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_escapes() -> None:
    text = page(report())
    parser = Whole()
    parser.feed(text)
    assert parser.open == [] and parser.loads == [] and "<script" not in text
    assert "&lt;country&gt;" in text and "fr &amp; de" in text


def test_a_small_group_is_said_to_be_too_small_and_a_loss_to_be_one() -> None:
    text = page(report())
    assert "too few" in text and '<span class="verdict worse">worse</span>' in text
    assert "No bundle was live" in text


def test_a_refused_comparison_says_why() -> None:
    other = Against(bundle_id="1" * 16, called="live", refused="it knows answers")
    assert "it knows answers" in page(report(against=other))
    compared = other.model_copy(
        update={
            "refused": "",
            "views": [
                Comparison(
                    view="new_items_only", num_users=40, ours={"ndcg": FIGURE},
                    theirs={"ndcg": FIGURE}, difference={"ndcg": WORSE}, our_lists={},
                    their_lists={},
                )
            ],
        }
    )  # fmt: skip
    assert "same users, same items" in page(report(against=compared))


def test_the_document_reads_back_as_it_was_written() -> None:
    whole = report()
    assert Report.model_validate_json(whole.model_dump_json()) == whole


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.37), (-0.3, 0.1), (0.0, 1500.0), (0.2, 0.2)])
def test_ticks_are_few_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 6 and all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    assert all(len(number(t)) <= 6 for t in found)


def test_charts_of_nothing_say_so() -> None:
    assert "nothing to draw" in interval_chart([("a", [None])], axis="x", series=["s"])
    assert "no rows" in reliability_chart([])
    assert "NaN" not in curve_chart([CurvePoint(phase="p", epoch=0, loss=0.0)])
