"""Source ``popular``: what everybody acts on at the moment, read from the moving item features."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.retrieval.source import SourceInputs


class PopularSource:
    """Weighted sum of ``log(1 + x)`` over item activity columns, the same for every user."""

    name = "popular"

    def __init__(self, column_weights: Tensor) -> None:
        """Take ``[Fi]`` weights of the activity columns."""
        self.column_weights = column_weights
        self._last: tuple[Tensor, Tensor] | None = None

    def item_scores(self, item_activity: Tensor) -> Tensor:
        """Give ``[N + 1]`` scores."""
        return item_activity.clamp(min=0).log1p() @ self.column_weights

    def scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``, a view of one row, computed once per refresh of the activity."""
        last = self._last
        if last is None or last[0] is not inputs.item_activity:
            last = self._last = inputs.item_activity, self.item_scores(inputs.item_activity)
        return last[1].expand(len(inputs.user_vectors), -1)

    def to(self, device: torch.device) -> PopularSource:
        """Give the source with its weights on ``device``."""
        return PopularSource(self.column_weights.to(device))
