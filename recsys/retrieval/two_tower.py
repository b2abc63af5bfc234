"""Source ``two_tower``: how near an item is to the user, against how near others are."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.retrieval.source import SourceInputs


class TwoTowerSource:
    """Nearest items by inner product. It alone knows items that were never interacted with."""

    name = "two_tower"

    def scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]`` cosines, standardised over the catalogue for each user.

        Towers that are trained further spread their cosines wider; in standard deviations from the
        user's mean the score keeps its meaning for a ranker that learned from the towers before.
        """
        cosine = inputs.item_vectors.scores(inputs.user_vectors)
        deviation, mean = torch.std_mean(cosine[:, 1:], dim=1, keepdim=True, correction=0)
        return (cosine - mean) / deviation.clamp(min=1e-6)
