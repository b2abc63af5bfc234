"""DLRM, DCN and two towers from our parts: the very layers of TorchRec's, on ``StackedTables``.

Axes: ``B`` examples, ``F`` categorical features, ``D`` embedding, ``W = (F + 1) * D``.
Sources: Naumov et al. 2019, "Deep learning recommendation model for personalization and
recommendation systems"; Wang et al. 2021, "DCN V2", eq. 2 (low-rank crosses).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from recsys.models.crosses import cross
from recsys.models.stacked_tables import StackedTables


class LowRankCrosses(nn.Module):
    """``x_{l+1} = x_0 * (W V x_l + b) + x_l``."""

    def __init__(self, size: int, *, num_layers: int, rank: int) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(nn.Linear(size, rank, bias=False) for _ in range(num_layers))
        self.wide = nn.ModuleList(nn.Linear(rank, size) for _ in range(num_layers))
        for linear in (*self.narrow, *self.wide):
            nn.init.xavier_normal_(linear.weight)
        for linear in self.wide:
            nn.init.zeros_(linear.bias)

    def forward(self, start: Tensor) -> Tensor:
        """Give ``[B, W]`` of the same."""
        crossed = start
        for narrow, wide in zip(self.narrow, self.wide, strict=True):
            crossed = cross(crossed, start, wide(narrow(crossed)))
        return crossed


class PairProducts(nn.Module):
    """The dense vector, and the dot product of each pair of vectors (DLRM's interaction)."""

    pairs: Tensor

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        left, right = torch.triu_indices(num_vectors, num_vectors, offset=1)
        self.register_buffer("pairs", left * num_vectors + right, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Give ``[B, D + F (F + 1) / 2]`` of ``[B, F + 1, D]``, the dense vector first."""
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return torch.cat([vectors[:, 0], products.index_select(1, self.pairs)], dim=1)


class ClickModel(nn.Module):
    """Tables and a dense network, their interaction, and a network over it."""

    def __init__(
        self,
        num_rows: Sequence[int],
        embedding_size: int,
        *,
        num_dense: int,
        dense_layers: Sequence[int],
        over_layers: Sequence[int],
        num_crosses: int,
        cross_rank: int,
    ) -> None:
        """``num_crosses``: 0 makes it a DLRM, otherwise a DCN."""
        super().__init__()
        self.tables = StackedTables(num_rows, embedding_size)
        self.dense = _network((num_dense, *dense_layers, embedding_size), ends_linear=False)
        width = (len(num_rows) + 1) * embedding_size
        self.is_dcn = num_crosses > 0
        self.crosses = LowRankCrosses(width, num_layers=num_crosses, rank=cross_rank)
        self.products = PairProducts(len(num_rows) + 1)
        over = width if self.is_dcn else embedding_size + len(self.products.pairs)
        self.over = _network((over, *over_layers, 1), ends_linear=True)

    def forward(self, dense: Tensor, index: Tensor) -> Tensor:
        """Give ``[B]`` logits of ``[B, 13]`` numbers and ``[B, F]`` rows."""
        vectors = torch.cat([self.dense(dense).unsqueeze(1), self.tables(index)], dim=1)
        crossed = self.crosses(vectors.flatten(1)) if self.is_dcn else self.products(vectors)
        logits: Tensor = self.over(crossed).squeeze(1)
        return logits


class TwoTowers(nn.Module):
    """A network over each half of the tables, and the product of what they give.

    The layers of TorchRec's retrieval example, with as many tables as there are. The last layer is
    linear: with the example's ReLU no logit could fall below 0.
    """

    def __init__(
        self,
        num_rows: Sequence[int],
        embedding_size: int,
        *,
        num_dense: int,
        dense_layers: Sequence[int],
    ) -> None:
        """The first half of the tables and the numbers are the user's, the rest the item's."""
        super().__init__()
        self.tables = StackedTables(num_rows, embedding_size)
        self.num_user_tables = len(num_rows) // 2
        of_user = num_dense + self.num_user_tables * embedding_size
        of_item = (len(num_rows) - self.num_user_tables) * embedding_size
        self.user = _network((of_user, *dense_layers, embedding_size), ends_linear=True)
        self.item = _network((of_item, *dense_layers, embedding_size), ends_linear=True)

    def forward(self, dense: Tensor, index: Tensor) -> Tensor:
        """Give ``[B]`` logits of ``[B, 13]`` numbers and ``[B, F]`` rows."""
        vectors = self.tables(index)
        of_user = vectors[:, : self.num_user_tables].flatten(1)
        of_item = vectors[:, self.num_user_tables :].flatten(1)
        user = self.user(torch.cat([dense.to(of_user.dtype), of_user], dim=1))
        return (user * self.item(of_item)).sum(dim=1)


def _network(sizes: Sequence[int], *, ends_linear: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes):
        layers += [nn.Linear(width, following), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers[:-1] if ends_linear else layers))
