"""Source ``history``: what the user had before, by how often and how lately."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.retrieval.source import SourceInputs

DAY_S = 86_400.0


class HistorySource:
    """``log(1 + count) * 0.5 ** (age / half_life)`` for history items, 0 for the others."""

    name = "history"

    def __init__(self, *, half_life_days: float) -> None:
        self.half_life_days = half_life_days

    def scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``."""
        user = inputs.user
        index = user["history_index"].long()
        decay = torch.exp2(-user["history_age_s"] / (self.half_life_days * DAY_S))
        values = user["history_count"].log1p() * decay * (index != 0)
        out = values.new_zeros(len(index), len(inputs.item_vectors))
        return out.scatter_add_(1, index, values)
