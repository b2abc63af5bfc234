"""Source ``history``: what the user had before, by how often and how lately."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.retrieval.excluded import Excluded
from recsys.retrieval.source import Found, SourceInputs, strongest_of
from recsys.retrieval.sparse import ItemGroups, SparseScores

DAY_S = 86_400.0


class HistorySource:
    """``log(1 + count) * 0.5 ** (age / half_life)`` for history items, 0 for the others."""

    name = "history"
    knows_all = False
    rounds_by_shape = False

    def __init__(self, *, half_life_days: float) -> None:
        self.half_life_days = half_life_days

    def search(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found:
        """Give the history, strongest first."""
        return strongest_of(*self._known(inputs).entries(), count, excluded)

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of the items ``index``."""
        return self._known(inputs).of(index)

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``."""
        index, values = self._entries(inputs)
        out = values.new_zeros(len(index), len(inputs.item_vectors))
        return out.scatter_add_(1, index, values)

    def _known(self, inputs: SourceInputs) -> SparseScores:
        def make() -> SparseScores:
            index, values = self._entries(inputs)
            return SparseScores(ItemGroups(index), values)

        return inputs.once(("history", self.half_life_days), make)

    def _entries(self, inputs: SourceInputs) -> tuple[Tensor, Tensor]:
        """Give items and values ``[B, H]``."""
        user = inputs.user
        index = user["history_index"].long()
        decay = torch.exp2(-user["history_age_s"] / (self.half_life_days * DAY_S))
        return index, user["history_count"].log1p() * decay * (index != 0)
