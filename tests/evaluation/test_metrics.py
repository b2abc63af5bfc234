"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.evaluation.auc import auc
from recsys.evaluation.average_precision import average_precision_at_k
from recsys.evaluation.bootstrap import bootstrap_mean
from recsys.evaluation.calibration import expected_calibration_error
from recsys.evaluation.coverage import coverage_at_k
from recsys.evaluation.gini import gini_at_k
from recsys.evaluation.grouped_auc import grouped_auc
from recsys.evaluation.hit_rate import hit_rate_at_k
from recsys.evaluation.hits import hit_table, num_relevant
from recsys.evaluation.log_loss import log_loss
from recsys.evaluation.ndcg import ndcg_at_k
from recsys.evaluation.novelty import novelty_at_k
from recsys.evaluation.recall import recall_at_k
from recsys.evaluation.reciprocal_rank import reciprocal_rank_at_k
from recsys.evaluation.report import ItemFacts, as_table, judge_lists
from recsys.features.batch import Ragged


def ragged(*rows: list[int]) -> Ragged:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return Ragged(np.array([i for row in rows for i in row], dtype=np.int32), offsets)


RANKED = np.array([[3, 1, 2, 0], [4, 4, 5, 6], [1, 2, 3, 4]])
RELEVANT = ragged([1, 9], [4, 6], [])
HITS = hit_table(RANKED, RELEVANT)
TRUTH = num_relevant(RELEVANT)


def test_a_hit_is_a_relevant_item_at_its_first_place() -> None:
    assert HITS.tolist() == [
        [False, True, False, False],
        [True, False, False, True],
        [False, False, False, False],
    ]


def test_padding_is_never_a_hit() -> None:
    assert not hit_table(np.zeros((1, 3), dtype=np.int32), ragged([1])).any()


def test_lists_and_truth_must_speak_of_the_same_users() -> None:
    with pytest.raises(InputError, match="3 lists but 1 sets"):
        hit_table(RANKED, ragged([1]))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (recall_at_k, [0.5, 1.0]),
        (hit_rate_at_k, [1.0, 1.0]),
        (reciprocal_rank_at_k, [0.5, 1.0]),
        (average_precision_at_k, [0.25, (1 + 0.5) / 2]),
        (
            ndcg_at_k,
            [
                (1 / math.log2(3)) / (1 + 1 / math.log2(3)),
                (1 + 1 / math.log2(5)) / (1 + 1 / math.log2(3)),
            ],
        ),
    ],
)
def test_list_metrics_by_hand_and_empty_truth_is_nan(metric, expected) -> None:
    values = metric(HITS, TRUTH, k=4)
    assert values[:2] == pytest.approx(expected)
    assert np.isnan(values[2])


def test_recall_divides_by_all_relevant_items_but_ndcg_by_the_best_list() -> None:
    hits, truth = np.array([[True]]), np.array([5])
    assert recall_at_k(hits, truth, k=1) == pytest.approx([0.2])
    assert ndcg_at_k(hits, truth, k=1) == pytest.approx([1.0])


def test_a_list_shorter_than_k_is_padded_in_thought() -> None:
    assert ndcg_at_k(np.array([[True]]), np.array([2]), k=5) == pytest.approx(
        [1 / (1 + 1 / math.log2(3))]
    )


@given(st.lists(st.lists(st.integers(1, 30), min_size=5, max_size=5), min_size=1, max_size=8))
def test_metrics_lie_between_0_and_1(rows: list[list[int]]) -> None:
    relevant = ragged(*[sorted({1, 2, 3, *row[:1]}) for row in rows])
    hits, truth = hit_table(np.array(rows), relevant), num_relevant(relevant)
    for metric in (recall_at_k, ndcg_at_k, hit_rate_at_k, average_precision_at_k):
        values = metric(hits, truth, k=5)
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


def test_coverage_and_gini() -> None:
    assert coverage_at_k(np.array([[1, 2], [1, 0]]), num_items=4, k=2) == 0.5
    assert gini_at_k(np.array([[1], [1]]), num_items=2, k=1) == 0.5
    assert math.isnan(gini_at_k(np.zeros((1, 2), dtype=np.int64), num_items=2, k=2))


def test_novelty_is_self_information() -> None:
    popularity = np.array([0, 3, 0])  # shares (3 + 1) / 5 and 1 / 5
    assert novelty_at_k(np.array([[2]]), popularity, k=1) == pytest.approx(math.log2(5))


def test_auc_counts_ties_half_and_needs_both_classes() -> None:
    assert auc(np.array([0.5, 0.5]), np.array([True, False])) == 0.5
    assert math.isnan(auc(np.array([0.5]), np.array([True])))


def test_grouped_auc_weighs_by_rows_and_leaves_one_class_groups_out() -> None:
    scores = np.array([0.9, 0.1, 0.1, 0.2, 0.9, 0.5])
    labels = np.array([True, False, True, False, False, True])
    group = np.array([1, 1, 2, 2, 2, 3])
    assert grouped_auc(scores, labels, group) == pytest.approx((2 * 1.0 + 3 * 0.0) / 5)


def test_calibration_error_and_log_loss() -> None:
    p, y = np.array([0.2, 0.2, 0.8, 0.8]), np.array([False, False, True, True])
    assert expected_calibration_error(p, y, num_bins=2) == pytest.approx(0.2)
    assert log_loss(p, y) == pytest.approx(-math.log(0.8))
    assert math.isnan(log_loss(p[:0], y[:0]))


def test_bootstrap_interval_holds_the_mean_and_skips_nan() -> None:
    values = np.array([0.0, 1.0, 1.0, np.nan, 0.0])
    found = bootstrap_mean(values, rng=np.random.default_rng(1))
    assert found.mean == 0.5
    assert 0.0 <= found.low < found.mean < found.high <= 1.0
    assert math.isnan(bootstrap_mean(values[3:4], rng=np.random.default_rng(1)).mean)


def test_report_has_numbers_and_a_table() -> None:
    quality = judge_lists(
        RANKED, RELEVANT, k=4, items=ItemFacts(popularity=np.ones(10)), rng=np.random.default_rng(0)
    )
    assert quality.num_users == 2
    assert quality.as_json()["recall@4"] == 0.75
    assert as_table("view", {"ours": quality}).row_count == 1
