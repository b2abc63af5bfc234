"""Sources ``item_to_item`` and ``item_to_item_recent``: neighbours of the history's items.

Each item has its ``M`` strongest neighbours with weights (by ``ease.py`` or ``item_knn.py``);
a user's score of an item is the weight of it summed over the history, older items counting less.
With a short half-life the same neighbours answer "what goes with what you just took".

Axes: ``B`` users, ``H`` history, ``M`` neighbours, ``N`` items.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.serving_model import UserContext
from recsys.retrieval.source import SourceInputs

DAY_S = 86_400.0


class ItemToItemSource:
    """Sums decayed neighbour weights over the history."""

    def __init__(
        self, name: str, neighbour_index: Tensor, neighbour_weight: Tensor, *, half_life_days: float
    ) -> None:
        """Take ``[N + 1, M]`` neighbour rows (int32 or int64, 0 pads) and weights (0 there)."""
        self._name = name
        self.neighbour_index = neighbour_index
        self.neighbour_weight = neighbour_weight
        self.half_life_days = half_life_days

    @property
    def name(self) -> str:
        """Name in ``Dimensions.sources``."""
        return self._name

    def scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``; no history gives zeros."""
        # Sources that differ in their half-life alone look up the same neighbours.
        key = ("item_to_item", self.neighbour_weight.data_ptr())
        age_s, used, neighbours, weights = inputs.once(key, lambda: self._look_up(inputs.user))
        decay = torch.exp2(-age_s / (self.half_life_days * DAY_S)) * used
        values = weights * decay.unsqueeze(2)
        out = values.new_zeros(len(age_s), len(inputs.item_vectors))
        return out.scatter_add_(1, neighbours, values.flatten(1))

    def _look_up(self, user: UserContext) -> tuple[Tensor, ...]:
        """Give ages ``[B, H]``, where an item is, its neighbours ``[B, H * M]`` and weights."""
        index = user["history_index"].long()
        # Histories are padded on the left: columns in which nobody has an item are skipped.
        used = (index != 0).any(dim=0).nonzero()
        begin = int(used[0]) if len(used) else index.shape[1]
        index = index[:, begin:]
        return (
            user["history_age_s"][:, begin:],
            index != 0,
            F.embedding(index, self.neighbour_index).flatten(1).long(),
            F.embedding(index, self.neighbour_weight),
        )
