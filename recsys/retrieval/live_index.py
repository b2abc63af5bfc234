"""A vector index beside which some rows have moved: those are searched exactly until folded in.

Rows that are new, or whose vectors changed, are few: their product with a user costs less than
changing an index that is being searched. In the index, a changed row is masked. When the rows
beside it are many, another index is made in which they are (``Fold``), by whoever has time, and put
in the place of this one in one step.

Axes: ``M`` rows beside the index, ``D`` embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.compression.item_vectors import ItemVectors
from recsys.retrieval.vector_index import Allowed, VectorIndex


@dataclass(frozen=True)
class Fold:
    """What goes into the next index, as it was at one moment."""

    index: VectorIndex
    rows: Tensor
    """``[M]`` int64."""
    vectors: Tensor
    """``[M, D]`` float32."""
    moves: tuple[int, ...]
    """Of each row, which of all moves was its last."""

    def run(self) -> VectorIndex:
        """Give the next index; touches nothing that searches use."""
        return self.index.folded(self.rows, self.vectors)


class LiveIndex:
    """An index and the rows beside it. Not thread-safe: changed between two searches."""

    def __init__(self, index: VectorIndex) -> None:
        self.index = index
        self._moves: dict[int, int] = {}
        self._num_moves = 0
        self._beside: tuple[Tensor, Tensor] | None = None

    @property
    def state(self) -> int:
        """Another number whenever what the index may find, or is, has changed."""
        return self._num_moves

    @property
    def num_beside(self) -> int:
        """M."""
        return len(self._moves)

    def moved(self, rows: Iterable[int]) -> None:
        """Search these rows beside the index from now on."""
        for row in rows:
            self._num_moves += 1
            self._moves[row] = self._num_moves
        self._beside = None

    def beside(self, vectors: ItemVectors) -> tuple[Tensor, Tensor]:
        """Give the rows ``[M]`` int64 and their vectors ``[M, D]`` float32."""
        if self._beside is None:
            rows = torch.tensor(list(self._moves), dtype=torch.int64)
            local = vectors.local(rows)
            self._beside = rows, local.vectors[local.place]
        return self._beside

    def allowed(self, refused: Tensor) -> Allowed | None:
        """Give what is left of ``[N + 1]`` refused rows to find in the index; None: all of it."""
        if self._moves:
            rows = torch.tensor(list(self._moves), dtype=torch.int64)
            refused = refused.clone()
            refused[rows] = True
        return self.index.allowed(refused)

    def fold(self, vectors: ItemVectors) -> Fold:
        """Say what goes into the next index."""
        rows, theirs = self.beside(vectors)
        return Fold(self.index, rows, theirs.clone(), tuple(self._moves.values()))

    def take(self, fold: Fold, index: VectorIndex) -> None:
        """Search by the next index; rows that have moved again meanwhile stay beside it."""
        for row, move in zip(fold.rows.tolist(), fold.moves, strict=True):
            if self._moves[row] == move:
                del self._moves[row]
        self._num_moves += 1
        self._beside = None
        self.index = index
