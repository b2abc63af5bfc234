"""The largest of a row are those of its definition, equal ones by place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from torch import Tensor

from recsys.retrieval.best import best

_FLOATS = st.one_of(
    st.sampled_from([-np.inf, -1.5, 0.0, 1.0, 1.5, np.inf]),
    st.floats(width=32, allow_nan=False).map(lambda value: value + 0.0),  # no -0.0
)


def _by_definition(scores: Tensor, k: int) -> Tensor:
    rows = [sorted(range(scores.shape[1]), key=lambda n: (-row[n], n)) for row in scores.tolist()]
    return torch.tensor(rows, dtype=torch.int64)[:, :k]


@given(
    scores=of_numpy.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(1, 600)), elements=_FLOATS
    ),
    k=st.integers(1, 700),
)
def test_the_largest_come_first_and_of_equal_ones_the_lower_place(
    scores: np.ndarray, k: int
) -> None:
    row = torch.from_numpy(scores)
    value, place = best(row, k)
    assert torch.equal(place, _by_definition(row, min(k, row.shape[1])))
    assert torch.equal(value, row.gather(1, place))


@pytest.mark.parametrize("length", [10_001, 70_000, 200_003])
@pytest.mark.parametrize("k", [1, 100, 500])
def test_long_rows_of_many_equals(length: int, k: int) -> None:
    generator = torch.Generator().manual_seed(length + k)
    scores = torch.randint(-400, 400, (3, length), generator=generator) / 8.0
    scores[1] = torch.randn(length, generator=generator)
    scores[2, 7:] = -torch.inf
    value, place = best(scores, k)
    expected = (-scores).numpy().argsort(axis=1, kind="stable")[:, :k]
    assert torch.equal(place, torch.from_numpy(expected.copy()))
    assert torch.equal(value, scores.gather(1, place))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_are_left_to_torch(dtype: torch.dtype) -> None:
    scores = torch.randperm(200, generator=torch.Generator().manual_seed(1)).to(dtype)[None]
    value, place = best(scores, 5)
    assert value.tolist() == [[199.0, 198.0, 197.0, 196.0, 195.0]]
    assert torch.equal(scores.gather(1, place), value)


def test_rows_that_do_not_lie_side_by_side_and_none_at_all() -> None:
    scores = torch.randn(300, 4, generator=torch.Generator().manual_seed(2)).T
    assert torch.equal(best(scores, 9)[1], best(scores.contiguous(), 9)[1])
    assert best(scores[:0], 9)[1].shape == (0, 9)
    assert best(scores, 0)[1].shape == (4, 0)
