"""Items that came after a bundle was made: which row each has here, by a key of its identity.

Rows of a bundle's own items mean the same everywhere. A later item has whatever row was free in the
process that heard of it, so between processes it is named by its key, the hash of its identity:
that does not depend on the order in which anybody read the log, on its partitions, or on what
retention and compaction left of it.

NumPy and plain Python: API processes use it too.
"""

from __future__ import annotations

import numpy as np

from recsys.features.batch import Int64s
from recsys.features.names import identity_hash

NO_KEY = 0
"""Pads."""


def created_key(item_id: str) -> int:
    """Give the key of an identity: its signed 64-bit hash, never 0."""
    return identity_hash(item_id) or 1


class CreatedItems:
    """Keys of the rows ``N + 1 …`` of one process, N those of the bundle."""

    def __init__(self, num_items: int) -> None:
        """``num_items``: N."""
        self.num_items = num_items
        self._row_of: dict[int, int] = {}
        self._keys: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: int) -> int:
        """Give the next row to a key that has none."""
        assert key not in self._row_of and key != NO_KEY
        row = self.num_items + len(self._keys) + 1
        self._keys.append(key)
        self._row_of[key] = row
        return row

    def row_of(self, key: int) -> int:
        """Give the row of a key, 0 for one nobody here has heard of."""
        return self._row_of.get(key, 0)

    def key_of(self, row: int) -> int:
        """Give the key of a row above N."""
        return self._keys[row - self.num_items - 1]

    def keys_of(self, rows: Int64s) -> Int64s:
        """Give the keys of ``[E]`` rows above N."""
        return np.array([self.key_of(row) for row in rows.tolist()], dtype=np.int64)
