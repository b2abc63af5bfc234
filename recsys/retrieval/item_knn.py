"""Item-kNN: cosine of who took both, shrunk where few did. For catalogues too large for EASE.

Source: Sarwar et al. 2001, cosine similarity over users; shrinkage after Bell & Koren 2007. The
product is formed in blocks of items and only the strongest neighbours are kept, so memory is
``users x block``.
"""

from __future__ import annotations

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
    matrix = torch.sparse_coo_tensor(
        torch.stack([item_row, user_row]), weight, (size, num_users), check_invariants=False
    ).coalesce()
    norm = torch.zeros(size).index_add_(0, item_row, weight.square()).sqrt()
    width = min(num_neighbours, num_items)
    neighbours = torch.zeros(size, width, dtype=torch.int32)
    weights = torch.zeros(size, width)
    order = torch.argsort(item_row, stable=True)
    by_item = item_row[order]
    for begin in range(1, size, _ITEMS_A_BLOCK):
        end = min(begin + _ITEMS_A_BLOCK, size)
        low, high = torch.searchsorted(by_item, torch.tensor([begin, end])).tolist()
        entries = order[low:high]
        block = torch.zeros(num_users, end - begin)
        block[user_row[entries], item_row[entries] - begin] = weight[entries]
        together = torch.sparse.mm(matrix, block).T
        scale = norm[begin:end].unsqueeze(1) * norm.unsqueeze(0) + shrinkage
        cosine = together / scale.clamp(min=1e-9)
        cosine[torch.arange(end - begin), torch.arange(begin, end)] = 0.0
        value, index = cosine.topk(width, dim=1)
        kept = (value > 0) & (index != 0)
        neighbours[begin:end] = (index * kept).to(torch.int32)
        weights[begin:end] = value * kept
    return neighbours, weights
