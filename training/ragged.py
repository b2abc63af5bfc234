"""Rows of unequal length as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.features.batch import Ragged


@dataclass(frozen=True, kw_only=True)
class RaggedTensor:
    """Rows of unequal length."""

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, ragged: Ragged) -> RaggedTensor:
        """Take over a NumPy one."""
        return cls(
            values=torch.from_numpy(np.ascontiguousarray(ragged.values)).long(),
            offsets=torch.from_numpy(ragged.offsets),
        )

    def padded(self, rows: Tensor) -> Tensor:
        """Give ``[len(rows), longest]`` values, 0 pads."""
        begin = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begin
        place = torch.arange(int(lengths.max()) if len(rows) else 0)
        mask = place < lengths.unsqueeze(1)
        source = (begin.unsqueeze(1) + place).clamp(max=max(len(self.values) - 1, 0))
        return torch.where(mask, self.values[source], 0)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Tensor) -> RaggedTensor:
        """Give some rows, in the order asked for."""
        begin = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begin
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        place = torch.arange(int(offsets[-1])) + (begin - offsets[:-1]).repeat_interleave(lengths)
        return RaggedTensor(values=self.values[place], offsets=offsets)

    def rows(self, begin: int, end: int) -> RaggedTensor:
        """Give rows ``begin`` to ``end``, the latter not included."""
        offsets = self.offsets[begin : end + 1]
        return RaggedTensor(
            values=self.values[int(offsets[0]) : int(offsets[-1])], offsets=offsets - offsets[0]
        )

    @staticmethod
    def joined(parts: Sequence[RaggedTensor]) -> RaggedTensor:
        """Put rows one after the other."""
        lengths = torch.cat([part.offsets.diff() for part in parts])
        return RaggedTensor(
            values=torch.cat([part.values for part in parts]),
            offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
        )
