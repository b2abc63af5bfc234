"""EASE: the linear model that predicts each item of a user from the user's other items, solved.

Source: Steck 2019, "Embarrassingly shallow autoencoders for sparse data", eq. 8. We differ in that
a user's item counts by how lately it was taken (weight ``0.5 ** (age / half_life)``), which on
shops with seasons is worth more than any tuning of the penalty.

The solution takes ``N ** 3`` operations and ``N ** 2`` memory: for up to about 10,000 items. Beyond
that ``item_knn.py`` gives neighbours of the same shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ITEMS = 10_000
"""0.4 GB a matrix and about half a minute on two cores."""
_USERS_A_BLOCK = 4096


def fit_ease(
    user_row: Tensor, item_row: Tensor, weight: Tensor, *, num_users: int, num_items: int,
    penalty: float,
) -> Tensor:  # fmt: skip
    """Give the weights ``[N + 1, N + 1]``: row = history item, column = predicted item.

    Args:
        user_row: ``[E]`` int64, 0 … num_users - 1, ascending.
        item_row: ``[E]`` int64, 1 … num_items; a user's items are distinct.
        weight: ``[E]`` float32 entry of the user-item matrix.
        num_users: Users.
        num_items: N.
        penalty: Added to the diagonal (lambda).
    """
    size = num_items + 1
    gram = torch.zeros(size, size)
    bounds = torch.searchsorted(
        user_row, torch.arange(0, num_users + _USERS_A_BLOCK, _USERS_A_BLOCK)
    )
    for block, (begin, end) in enumerate(
        zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ):
        if begin == end:
            continue
        dense = torch.zeros(_USERS_A_BLOCK, size)
        dense[user_row[begin:end] - block * _USERS_A_BLOCK, item_row[begin:end]] = weight[begin:end]
        gram.addmm_(dense.T, dense)
    gram.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = -inverse / inverse.diagonal().unsqueeze(0)
    weights.fill_diagonal_(0.0)
    weights[0], weights[:, 0] = 0.0, 0.0
    return weights


def strongest(weights: Tensor, num_neighbours: int) -> tuple[Tensor, Tensor]:
    """Give the ``M`` largest positive weights of each row: ``[N + 1, M]`` int32 rows and weights.

    Places past the positive ones are padding: row 0, weight 0.
    """
    value, index = weights.topk(min(num_neighbours, weights.shape[1]), dim=1)
    kept = (value > 0) & (index != 0)
    return (index * kept).to(torch.int32), value * kept
