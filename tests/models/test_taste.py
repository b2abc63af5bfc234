"""Tastes: choices seen against what others choose, and candidates beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigurationError
from recsys.models.config import Aspect
from recsys.models.ranker import Ranker
from recsys.models.taste import VARIANCE_FLOOR, surprise, taste_match, taste_of
from tests.models.test_ranker_parts import EVERYTHING, dimensions, ranker_of


def user_of(index: list[list[int]], count: list[list[float]]) -> dict[str, Tensor]:
    return {"history_index": torch.tensor(index), "history_count": torch.tensor(count)}


def test_a_rare_choice_says_more_than_one_that_everybody_makes() -> None:
    user = user_of([[0, 1, 2, 3, 4]], [[0.0, 2.0, 2.0, 1.0, 1.0]])
    counts = torch.tensor([[[9.0, 9.0], [90.0, 100.0], [5.0, 100.0], [90.0, 100.0], [5.0, 100.0]]])
    difference, variance = (values[0].tolist() for values in surprise(user, counts))
    padding, usual, rare, left_by_few, left_by_all = difference
    assert padding == 0.0 == variance[0]
    assert rare > 0.9 > 0.2 > usual > 0  # both chosen
    assert left_by_few < -0.8 < -0.1 < left_by_all < 0  # both left
    assert variance[2] < 0.1


def test_taking_everything_says_as_little_as_taking_nothing() -> None:
    counts = torch.tensor([[[30.0, 100.0]] * 40] * 3)
    index = [list(range(1, 41))] * 3
    found, _ = surprise(user_of(index, [[2.0] * 40, [1.0] * 40, [2.0] + [1.0] * 39]), counts)
    assert found[0].abs().max() < 0.15 and found[1].abs().max() < 0.15
    assert found[2, 0] > 0.85


def test_a_match_is_the_statistic_of_each_side() -> None:
    generator = torch.Generator().manual_seed(0)
    aspects = (Aspect(keys=("a",), size=2), Aspect(keys=("b",), size=3))
    vectors = torch.rand(9, 5, generator=generator, dtype=torch.float64)
    vectors[0] = 0
    user = user_of([[0, 3, 1, 7], [0, 0, 0, 0]], [[0.0, 1.0, 2.0, 4.0], [0.0] * 4])
    counts = torch.rand(2, 4, 2, generator=generator, dtype=torch.float64) * 20
    index = torch.tensor([[2, 3, 0], [5, 6, 7]])
    found = taste_match(vectors, aspects, taste_of(vectors, user, counts), index)
    difference, variance = surprise(user, counts)
    for side, part in enumerate((slice(0, 2), slice(2, 5))):
        alike = vectors[index[0], part] @ vectors[user["history_index"][0], part].T
        wanted = (alike @ difference[0]) / (alike @ variance[0] + VARIANCE_FLOOR).sqrt()
        torch.testing.assert_close(found[0, :, side], wanted)
    assert (found[1] == 0).all() and (found[0, 2] == 0).all()


def test_aspects_want_to_know_what_was_taken_and_shown() -> None:
    table = ranker_of(EVERYTHING).table
    with pytest.raises(ConfigurationError, match="aspects want taste_counts"):
        Ranker(replace(EVERYTHING, taste_counts=None), dimensions(), table, 5)
