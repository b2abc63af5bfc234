"""Groups are judged when they are large enough, and the report says the same in both forms."""

from __future__ import annotations

import numpy as np

from recsys.evaluation.segments import MAX_GROUPS, MIN_USERS, by_quartile, by_value, judge_group


def test_a_small_group_is_not_judged() -> None:
    values = {"ndcg": np.r_[np.ones(MIN_USERS - 1), np.full(50, np.nan)]}
    few = judge_group("few", values, None, rng=np.random.default_rng(1))
    assert (few.num_users, few.is_enough, few.by_metric) == (MIN_USERS - 1, False, {})
    values = {"ndcg": np.ones(MIN_USERS)}
    enough = judge_group("enough", values, None, rng=np.random.default_rng(1))
    assert enough.is_enough and enough.by_metric["ndcg"].mean == 1.0


def test_a_difference_is_taken_user_by_user() -> None:
    rng = np.random.default_rng(3)
    theirs = rng.random(200)
    found = judge_group(
        "all", {"ndcg": theirs + 0.1}, {"ndcg": theirs}, rng=np.random.default_rng(1)
    )
    apart = found.difference["ndcg"]
    assert abs(apart.mean - 0.1) < 1e-9 and apart.high - apart.low < 1e-9
    assert found.by_metric["ndcg"].high - found.by_metric["ndcg"].low > 0.05


def test_quartiles_never_divide_equal_numbers() -> None:
    found = by_quartile("activity", np.array([1] * 60 + [2] * 10 + [3] * 20 + [50] * 10))
    assert found.names == ("1", "2 to 3", "50") or found.names == ("1", "2", "3", "50")
    assert sum((found.group == g).sum() for g in range(len(found.names))) == 100
    for value in (1, 2, 3, 50):
        rows = np.array([1] * 60 + [2] * 10 + [3] * 20 + [50] * 10) == value
        assert len(set(found.group[rows].tolist())) == 1


def test_values_become_groups_and_names_of_persons_do_not() -> None:
    found = by_value("country", ["fr", None, "de", "fr"])
    assert found is not None and found.names == ("fr", "de")
    assert found.group.tolist() == [0, -1, 1, 0]
    assert by_value("e-mail", [f"{n}@x" for n in range(100)]) is None
    assert by_value("country", ["fr", "fr"]) is None
    many = by_value("town", [f"town-{n % 40}" for n in range(400)])
    assert many is not None and len(many.names) == MAX_GROUPS and many.names[-1] == "other"
    assert (many.group == MAX_GROUPS - 1).sum() == 400 - 10 * (MAX_GROUPS - 1)
