"""Source ``two_tower``: the cosine of user and item vectors, exact over the whole catalogue."""

from __future__ import annotations

from torch import Tensor

from recsys.retrieval.source import SourceInputs


class TwoTowerSource:
    """Nearest items by inner product. It alone knows items that were never interacted with."""

    name = "two_tower"

    def scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]`` cosines."""
        return inputs.user_vectors @ inputs.item_vectors.T
