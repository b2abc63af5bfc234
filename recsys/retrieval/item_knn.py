"""Item-kNN: cosine of who took both, shrunk where few did. For catalogues too large for EASE.

Source: Sarwar et al. 2001, cosine similarity over users; shrinkage after Bell & Koren 2007. The
product is sparse, as what users took is: it is formed in blocks of items, of which only the
strongest neighbours are kept.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

_ITEMS_A_BLOCK = 512


def fit_item_knn(
    user_row: Tensor, item_row: Tensor, weight: Tensor, *, num_users: int, num_items: int,
    num_neighbours: int, shrinkage: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Give the ``M`` nearest items of each: ``[N + 1, M]`` int32 rows (0 pads) and weights.

    Arguments as in ``fit_ease``. ``shrinkage`` is added to the product of the norms, so that two
    items with one common user are not taken for twins.
    """
    size = num_items + 1
    by_user = _sparse(user_row, item_row, weight, (num_users, size))
    by_item = _sparse(item_row, user_row, weight, (size, num_users))
    norm = torch.zeros(size).index_add_(0, item_row, weight.square()).sqrt()
    width = min(num_neighbours, num_items)
    neighbours = torch.zeros(size, width, dtype=torch.int32)
    weights = torch.zeros(size, width)
    items, users = by_item.indices()
    for begin in range(1, size, _ITEMS_A_BLOCK):
        end = min(begin + _ITEMS_A_BLOCK, size)
        low, high = torch.searchsorted(items, torch.tensor([begin, end])).tolist()
        block = _sparse(
            items[low:high] - begin, users[low:high], by_item.values()[low:high],
            (end - begin, num_users),
        )  # fmt: skip
        together = _product(block, by_user)
        item, other = together.indices()
        scale = norm[item + begin] * norm[other] + shrinkage
        cosine = together.values() / scale.clamp(min=1e-9)
        cosine.masked_fill_((item + begin == other) | (other == 0), 0.0)
        value, index = _strongest(item, other, cosine, end - begin, width)
        neighbours[begin:end, : value.shape[1]] = index
        weights[begin:end, : value.shape[1]] = value
    return neighbours, weights


def _sparse(row: Tensor, column: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    index = torch.stack([row, column])
    return torch.sparse_coo_tensor(index, value, size, check_invariants=False).coalesce()


def _product(left: Tensor, right: Tensor) -> Tensor:
    with warnings.catch_warnings():  # torch says once that the layout it works in is in beta
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        product: Tensor = torch.sparse.mm(left, right).coalesce()
    return product


def _strongest(
    item: Tensor, other: Tensor, cosine: Tensor, count: int, width: int
) -> tuple[Tensor, Tensor]:
    """Give the greatest of each item's cosines and whose they are; nothing positive is 0."""
    first = torch.searchsorted(item, torch.arange(count + 1))
    most = int(first.diff().max())
    place = torch.arange(len(item)) - first[item]
    table = torch.zeros(count, most)
    table[item, place] = cosine
    whose = torch.zeros(count, most, dtype=torch.int32)
    whose[item, place] = other.to(torch.int32)
    value, at = table.topk(min(width, most), dim=1)
    kept = value > 0
    return value * kept, whose.gather(1, at) * kept
