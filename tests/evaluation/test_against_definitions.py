"""Vectorised metrics against their definitions, written out as loops, on generated cases."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.evaluation.auc import auc
from recsys.evaluation.average_popularity import average_popularity_at_k
from recsys.evaluation.average_precision import average_precision_at_k
from recsys.evaluation.bootstrap import bootstrap_mean, bootstrap_means, paired_difference
from recsys.evaluation.calibration import expected_calibration_error
from recsys.evaluation.diversity import category_diversity_at_k, vector_diversity_at_k
from recsys.evaluation.exposure import exposure_of_items, group_shares, popularity_group
from recsys.evaluation.exposure_per_due import exposure_per_due
from recsys.evaluation.full_ranking import ranks_of_targets, top_items
from recsys.evaluation.gini import gini_index
from recsys.evaluation.group_gap import group_gap
from recsys.evaluation.grouped_auc import grouped_auc
from recsys.evaluation.hit_rate import hit_rate_at_k
from recsys.evaluation.hits import hit_table, num_relevant
from recsys.evaluation.log_loss import log_loss
from recsys.evaluation.ndcg import ndcg_at_k
from recsys.evaluation.popularity_lift import popularity_lift_at_k
from recsys.evaluation.recall import recall_at_k
from recsys.evaluation.reciprocal_rank import reciprocal_rank_at_k
from recsys.evaluation.reliability import reliability_curve
from recsys.features.batch import Ragged

few = settings(max_examples=60)
lists = st.lists(
    st.lists(st.integers(1, 12), min_size=4, max_size=4, unique=True), min_size=1, max_size=6
)


def ragged(*rows: list[int]) -> Ragged:
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    return Ragged(np.array([i for row in rows for i in row], dtype=np.int32), offsets)


@few
@given(lists, st.data())
def test_list_metrics_are_their_definitions(rows: list[list[int]], data: st.DataObject) -> None:
    truth = [data.draw(st.sets(st.integers(1, 12), max_size=7)) for _ in rows]
    k = data.draw(st.integers(1, 6))
    relevant = ragged(*[sorted(t) for t in truth])
    hits, count = hit_table(np.array(rows), relevant), num_relevant(relevant)
    for b, (row, wanted) in enumerate(zip(rows, truth, strict=True)):
        top = row[:k]
        found = [
            metric(hits, count, k=k)[b]
            for metric in (
                recall_at_k, hit_rate_at_k, ndcg_at_k, reciprocal_rank_at_k, average_precision_at_k
            )
        ]  # fmt: skip
        if not wanted:
            assert np.isnan(found).all()
            continue
        right = [item in wanted for item in top]
        gain = sum(1 / math.log2(n + 2) for n, r in enumerate(right) if r)
        best = sum(1 / math.log2(n + 2) for n in range(min(k, len(wanted))))
        precisions = [sum(right[: n + 1]) / (n + 1) for n, r in enumerate(right) if r]
        assert found == pytest.approx(
            [
                sum(right) / len(wanted),
                float(any(right)),
                gain / best,
                1 / (right.index(True) + 1) if any(right) else 0.0,
                sum(precisions) / min(k, len(wanted)),
            ]
        )


@few
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30
    )
)
def test_auc_and_grouped_auc_count_pairs(rows: list[tuple[int, bool, int]]) -> None:
    score, label, group = (np.array(column) for column in zip(*rows, strict=True))
    score = score / 4.0

    def pairs(mask: np.ndarray) -> float:
        up, down = score[mask & label], score[mask & ~label]
        if len(up) == 0 or len(down) == 0:
            return math.nan
        return float(np.mean([(u > d) + 0.5 * (u == d) for u in up for d in down]))

    everybody = np.ones(len(score), dtype=bool)
    assert auc(score, label) == pytest.approx(pairs(everybody), nan_ok=True)
    each = [(pairs(group == g), int((group == g).sum())) for g in set(group.tolist())]
    each = [(value, size) for value, size in each if not math.isnan(value)]
    wanted = sum(v * n for v, n in each) / sum(n for _, n in each) if each else math.nan
    assert grouped_auc(score, label, group) == pytest.approx(wanted, nan_ok=True)


def test_grouped_auc_of_nothing_is_nan() -> None:
    assert math.isnan(grouped_auc(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=int)))


def test_the_reliability_curve_has_equal_bins_whose_gaps_make_the_error() -> None:
    rng = np.random.default_rng(3)
    p = rng.random(20_000) ** 3
    y = rng.random(20_000) < p * 0.8
    curve = reliability_curve(p, y, num_bins=10)
    assert curve.num_rows.tolist() == [2_000] * 10
    assert (curve.lowest[1:] >= curve.highest[:-1]).all()
    order = np.argsort(p)
    by_hand = [
        abs(p[rows].mean() - y[rows].mean()) * len(rows) / 20_000 for rows in np.split(order, 10)
    ]
    found = expected_calibration_error(p, y, num_bins=10)
    assert found == pytest.approx(sum(by_hand))
    assert found == pytest.approx(0.2 * p.mean(), abs=0.005)
    assert len(reliability_curve(p[:0], y[:0]).predicted) == 0
    assert reliability_curve(p[:3], y[:3]).num_rows.tolist() == [1, 1, 1]


def test_log_loss_of_a_certain_error_is_large_but_finite() -> None:
    assert log_loss(np.array([0.0]), np.array([True])) == pytest.approx(-math.log(1e-7))


@few
@given(st.lists(st.lists(st.integers(0, 8), min_size=5, max_size=5), min_size=1, max_size=5))
def test_diversity_is_a_mean_over_pairs(rows: list[list[int]]) -> None:
    rng = np.random.default_rng(1)
    vectors, category = rng.normal(size=(9, 3)), np.array([-1, 0, 0, 0, 1, 1, 2, -1, -1])
    vectors[8] = 0.0
    ranked = np.array(rows)

    def cosine(a: int, b: int) -> float:
        length = np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b])
        return float(vectors[a] @ vectors[b] / length) if length else 0.0

    by_vector = vector_diversity_at_k(ranked, vectors, k=4)
    by_category = category_diversity_at_k(ranked, category, k=4)
    for b, row in enumerate(rows):
        pairs = list(combinations([item for item in row[:4] if item], 2))
        if not pairs:
            assert np.isnan(by_vector[b]) and np.isnan(by_category[b])
            continue
        unlike = [category[a] != category[c] or category[a] < 0 for a, c in pairs]
        assert by_vector[b] == pytest.approx(np.mean([1 - cosine(a, c) for a, c in pairs]))
        assert by_category[b] == pytest.approx(np.mean(unlike))


@few
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_gini_is_the_mean_difference_of_all_pairs(amounts: list[int]) -> None:
    x = np.array(amounts, dtype=float)
    mean = x.mean()
    wanted = np.abs(x[:, None] - x).mean() / (2 * mean) if mean else math.nan
    assert gini_index(x) == pytest.approx(wanted, nan_ok=True)


@few
@given(st.lists(st.integers(0, 30), min_size=1, max_size=15))
def test_head_and_tail_have_their_share_of_the_interactions(counts: list[int]) -> None:
    popularity = np.array([0, *counts])
    group = popularity_group(popularity)
    assert group[0] == -1
    total = sum(counts)
    of = [[c for c, g in zip(counts, group[1:], strict=True) if g == n] for n in range(3)]
    if total == 0:
        assert len(of[2]) == len(counts)
        return
    assert sum(of[0]) >= 0.2 * total - 1e-9
    assert sum(sorted(of[0])[1:]) < 0.2 * total or len(of[0]) == 1  # no item too many
    assert sum(of[2]) <= 0.2 * total + 1e-9
    assert min(of[0]) >= max(of[1] + of[2], default=0)
    assert min(of[0] + of[1]) >= max(of[2], default=0)


def test_exposure_falls_with_the_place_and_is_shared_by_groups() -> None:
    ranked = np.array([[1, 2], [1, 0]])
    found = exposure_of_items(ranked, num_items=3, k=2)
    assert found.tolist() == pytest.approx([0, 2.0, 1 / math.log2(3), 0])
    assert exposure_of_items(ranked, num_items=3, k=2, discounted=False).tolist() == [0, 2, 1, 0]
    group = np.array([-1, 0, 1, 1])
    assert group_shares(found, group, num_groups=2).sum() == pytest.approx(1.0)
    per_due = exposure_per_due(
        np.array([0.0, 2, 1, 0]), np.array([0.0, 1, 1, 1]), group, names=("a", "b")
    )
    assert per_due == {"a": pytest.approx(2.0), "b": pytest.approx(0.5)}
    gap = group_gap(per_due)
    assert gap is not None and (gap.best, gap.worst) == ("a", "b")
    assert gap.ratio == pytest.approx(0.25) and gap.difference == pytest.approx(1.5)


def test_a_gap_needs_two_groups_that_were_judged() -> None:
    assert group_gap({"a": 0.5, "b": math.nan}) is None
    even = group_gap({"a": 0.0, "b": 0.0})
    assert even is not None and even.difference == 0 and math.isnan(even.ratio)


def test_popularity_of_lists_and_its_lift_over_profiles() -> None:
    popularity = np.array([0, 10, 2, 1])
    ranked = np.array([[1, 2], [1, 1], [0, 0]])
    found = average_popularity_at_k(ranked, popularity, k=2)
    assert found[:2].tolist() == [6.0, 10.0] and math.isnan(found[2])
    profiles = ragged([2], [1, 2], [3])
    # Users 0 and 1 had 2 and 6 on average and are shown 6 and 10.
    assert popularity_lift_at_k(ranked, profiles, popularity, k=2) == pytest.approx((8 - 4) / 4)
    assert math.isnan(popularity_lift_at_k(ranked, ragged([], [], []), popularity, k=2))


def test_means_resampled_together_are_the_means_and_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        values = rng.normal(1.0, 2.0, size=(150, 2))
        values[:50, 1] = np.nan
        both = bootstrap_means(values, rng=np.random.default_rng(trial), num_resamples=300)
        assert both[0].mean == pytest.approx(values[:, 0].mean())
        assert both[1].mean == pytest.approx(values[50:, 1].mean())
        covered += both[0].low <= 1.0 <= both[0].high
    assert 50 <= covered <= 60  # 95 % of 60 is 57


def test_intervals_do_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random(40)
    whole = bootstrap_mean(values, rng=np.random.default_rng(1))
    monkeypatch.setattr("recsys.evaluation.bootstrap._CHUNK_VALUES", 100)
    parts = bootstrap_mean(values, rng=np.random.default_rng(1))
    assert parts == pytest.approx(whole, rel=1e-12)


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    rng = np.random.default_rng(4)
    hard = rng.random(300)
    ours, theirs = hard + 0.02, hard + rng.normal(0, 0.01, 300)
    theirs[0] = np.nan
    apart = paired_difference(ours, theirs, rng=rng)
    assert apart.low > 0.0
    assert apart.high - apart.low < 0.2 * np.subtract(*bootstrap_mean(ours, rng=rng)[:0:-1])


SCORES = np.random.default_rng(5).integers(0, 6, size=(7, 13)).astype(np.float32)


@pytest.mark.parametrize("chunk_values", [1, 40, 10_000])
def test_full_ranking_is_a_sort_of_what_is_left(monkeypatch, chunk_values: int) -> None:
    monkeypatch.setattr("recsys.evaluation.full_ranking._CHUNK_VALUES", chunk_values)
    banned = ragged([1, 2], [], [12], [3], list(range(1, 13)), [5], [])
    allowed = np.ones(13, dtype=bool)
    allowed[[4, 9]] = False
    target = np.array([1, 4, 12, 0, 6, 6, 7])

    def scores(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(SCORES[rows])

    found = top_items(scores, num_users=7, num_items=12, k=5, banned=banned, allowed=allowed)
    rank = ranks_of_targets(scores, target, num_items=12, banned=banned, allowed=allowed)
    for b in range(7):
        left = [i for i in range(1, 13) if allowed[i] and i not in banned.row(b)]
        order = sorted(left, key=lambda i: (-SCORES[b, i], i))[:5]
        assert sorted(-SCORES[b, i] for i in found[b] if i) == sorted(-SCORES[b, i] for i in order)
        assert len(set(found[b].tolist()) - {0}) == len(order)
        if not target[b]:
            assert rank[b] == 0
            continue
        others = [i for i in left if i != target[b]]
        assert rank[b] == 1 + sum(SCORES[b, i] >= SCORES[b, target[b]] for i in others)


def test_full_ranking_refuses_a_diverged_model_and_other_shapes() -> None:
    with pytest.raises(InputError, match="NaN"):
        top_items(lambda rows: torch.full((len(rows), 4), torch.nan), num_users=1, num_items=3, k=1)
    with pytest.raises(InputError, match=r"wanted scores of shape \(1, 4\)"):
        top_items(lambda rows: torch.zeros(len(rows), 3), num_users=1, num_items=3, k=1)


def test_all_alike_is_the_last_place() -> None:
    rank = ranks_of_targets(lambda rows: torch.zeros(len(rows), 11), np.array([3]), num_items=10)
    assert rank.tolist() == [10]
