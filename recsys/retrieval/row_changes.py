"""Which rows of a table were written in place: what keeps something of it makes that much anew."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

_REMEMBERED_PART = 8
"""Rows are remembered up to one in so many of the table: from there on, all of it is as quick."""


class RowChanges:
    """Numbers the writes to one table. Not thread-safe, like the model that has it."""

    def __init__(self, num_rows: int = 0) -> None:
        """``num_rows``: those of the table."""
        self.version = 0
        """How often it was written."""
        self._most = num_rows // _REMEMBERED_PART
        self._count = 0
        self._written: deque[tuple[int, Tensor]] = deque()

    def add(self, rows: Tensor) -> None:
        """Say that ``[M]`` rows were written."""
        self.version += 1
        self._written.append((self.version, rows))
        self._count += len(rows)
        while self._count > self._most:
            self._count -= len(self._written.popleft()[1])

    def add_all(self) -> None:
        """Say that every row may have been written."""
        self.version += 1
        self._written.clear()
        self._count = 0

    def since(self, version: int) -> Tensor | None:
        """Give the distinct rows written after ``version``; None: more than are remembered."""
        missing = self.version - version
        if missing > len(self._written):
            return None
        new = [rows for number, rows in self._written if number > version]
        return torch.unique(torch.cat(new)) if new else torch.empty(0, dtype=torch.int64)
