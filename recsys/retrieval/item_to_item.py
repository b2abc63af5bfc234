"""Sources ``item_to_item`` and ``item_to_item_recent``: neighbours of the history's items.

Each item has its ``M`` strongest neighbours with weights (by ``ease.py`` or ``item_knn.py``);
a user's score of an item is the weight of it summed over the history, older items counting less.
With a short half-life the same neighbours answer "what goes with what you just took".

Axes: ``B`` users, ``H`` history, ``M`` neighbours, ``N`` items.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.history_sequence import first_used_column
from recsys.models.serving_model import UserContext
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.source import Found, SourceInputs, strongest_of
from recsys.retrieval.sparse import ItemGroups, SparseScores

DAY_S = 86_400.0


class _Neighbours(NamedTuple):
    """What a history's items bring with them."""

    age_s: Tensor
    """``[B, H]``."""
    used: Tensor
    """``[B, H]`` where an item is."""
    item: Tensor
    """``[B, H * M]`` int64."""
    weight: Tensor
    """``[B, H, M]``."""


class ItemToItemSource:
    """Sums decayed neighbour weights over the history."""

    knows_all = False
    rounds_by_shape = False

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

    def search(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found:
        """Give the neighbours, strongest first; no history has none."""
        return strongest_of(*self._known(inputs).entries(), count, excluded)

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of the items ``index``."""
        return self._known(inputs).of(index)

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``; no history gives zeros."""
        near, values = self._entries(inputs)
        out = values.new_zeros(len(values), len(inputs.item_vectors))
        return out.scatter_add_(1, near.item, values)

    def _known(self, inputs: SourceInputs) -> SparseScores:
        def make() -> SparseScores:
            near, values = self._entries(inputs)
            # Sources that differ in their half-life alone have the same neighbours.
            groups = inputs.once((*self._key, "groups"), lambda: ItemGroups(near.item))
            return SparseScores(groups, values)

        return inputs.once((*self._key, self.half_life_days), make)

    def _entries(self, inputs: SourceInputs) -> tuple[_Neighbours, Tensor]:
        """Give the neighbours and their decayed weights ``[B, H * M]``."""
        near = inputs.once(self._key, lambda: self._look_up(inputs.user))
        decay = torch.exp2(-near.age_s / (self.half_life_days * DAY_S)) * near.used
        return near, (near.weight * decay.unsqueeze(2)).flatten(1)

    @property
    def _key(self) -> tuple[str, int]:
        """Names what sources with the same tables share."""
        return "neighbours", self.neighbour_weight.data_ptr()

    def _look_up(self, user: UserContext) -> _Neighbours:
        index = user["history_index"].long()
        begin = first_used_column(index)
        index = index[:, begin:]
        # Items that came after the table was made have no neighbours yet.
        index = torch.where(index < len(self.neighbour_index), index, 0)
        return _Neighbours(
            age_s=user["history_age_s"][:, begin:],
            used=index != 0,
            item=F.embedding(index, self.neighbour_index).flatten(1).long(),
            weight=F.embedding(index, self.neighbour_weight),
        )
