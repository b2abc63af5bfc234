"""Embedding tables of several categorical features, kept as one and looked up in one go.

One lookup, one sparse gradient and one update a step instead of one for each feature: with 26
features and 2,048 examples that is most of what a step on the tables costs on a CPU.

Axes: ``F`` features, ``D`` embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.errors import ConfigurationError


class StackedTables(nn.Module):
    """Tables of one width, one after the other in one weight."""

    first_row: Tensor

    def __init__(self, num_rows: Sequence[int], embedding_size: int, *, std: float = 0.01) -> None:
        """Make tables of ``num_rows`` each, normal with deviation ``std``.

        Raises:
            ConfigurationError: when there is no table, or one has no rows.
        """
        super().__init__()
        if not num_rows or min(num_rows) < 1:
            raise ConfigurationError(
                f"wanted tables of at least one row each, found {list(num_rows)}"
            )
        self.num_rows = tuple(num_rows)
        starts = torch.tensor([0, *self.num_rows]).cumsum(0)[:-1]
        self.register_buffer("first_row", starts, persistent=False)
        self.table = nn.Embedding(sum(self.num_rows), embedding_size)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, index: Tensor) -> Tensor:
        """Give ``[..., F, D]`` for ``[..., F]`` int64 rows, each counted within its own table.

        Under autocast they come in its type.

        Rows are not checked against the table they are of (that would wait for the device): a row
        beyond it reads the next one. Vocabularies say 0 for what they do not know.
        """
        vectors: Tensor = self.table(index + self.first_row)
        kind = vectors.device.type
        if torch.is_autocast_enabled(kind):
            # What follows would do it layer by layer, and compute the rest in two types at once.
            vectors = vectors.to(torch.get_autocast_dtype(kind))
        return vectors
