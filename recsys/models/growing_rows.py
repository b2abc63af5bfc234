"""Rows of a tensor with room for more behind them: growing moves nothing that is there.

The room is asked of the operating system at once and costs memory only where it is written, so a
million rows grow by one in the time of that one.

Axes: ``N`` rows there are, ``M`` rows given.
"""

from __future__ import annotations

from torch import Tensor

from recsys.errors import InputError
from recsys.large_pages import ask_for_large_pages


class GrowingRows:
    """``[N, ...]`` that grows at its end, within its room."""

    def __init__(self, rows: Tensor, *, room: int) -> None:
        """Take ``[N, ...]``, copied where there is room: it must lie before it."""
        self.rows = rows
        """``[N, ...]``; another tensor after each growth, over the same memory."""
        self._storage = rows
        if room:
            self._storage = rows.new_empty((len(rows) + room, *rows.shape[1:]))
            ask_for_large_pages(self._storage)
            self._storage[: len(rows)] = rows
            self.rows = self._storage[: len(rows)]

    def put(self, index: Tensor, rows: Tensor) -> None:
        """Write ``[M, ...]`` at ``[M]`` rows; those from N on must be the next ones.

        Raises:
            InputError: when there is no room for them.
        """
        end = max(int(index.max()) + 1, len(self.rows)) if len(index) else len(self.rows)
        if end > len(self._storage):
            raise InputError(f"wanted room for {end} rows, found {len(self._storage)}")
        self._storage[index] = rows.to(self._storage.dtype)
        if end > len(self.rows):
            self.rows = self._storage[:end]
