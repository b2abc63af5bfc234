"""Created items on the wire: rows of this process to keys, and back to rows of the other.

Inside a process a created item has a row like any other. In a call its place is taken by ``-j``,
the ``j``-th of the keys that travel beside it (``CREATED_KEYS`` in ``models/signature.py``).

Axes: ``B`` users of a call, ``E`` keys of the one with most.
"""

from __future__ import annotations

import numpy as np

from recsys.features.batch import Int64s
from recsys.inference.model import Array, Arrays
from recsys.models.created_items import NO_KEY, CreatedItems
from recsys.models.signature import CREATED_KEYS

OF_ITEMS = ("history_index", "exclude_index", "candidate_index", "item_index")
"""Inputs that hold items."""


def to_keys(arrays: Arrays, created: CreatedItems) -> dict[str, Array]:
    """Give the arrays (those of items int32 ``[B, ...]``) with ``CREATED_KEYS`` ``[B, E]``."""
    last, num_users = created.num_items, len(next(iter(arrays.values())))
    items = {name: arrays[name] for name in OF_ITEMS if name in arrays}
    if not any((index > last).any() for index in items.values()):
        return {**arrays, CREATED_KEYS: np.zeros((num_users, 1), dtype=np.int64)}
    rows: list[Int64s] = [
        np.unique(np.concatenate([index[b][index[b] > last] for index in items.values()]))
        for b in range(num_users)
    ]
    keys = np.zeros((num_users, max(map(len, rows))), dtype=np.int64)
    named: dict[str, Array] = {**arrays, CREATED_KEYS: keys}
    for name, index in items.items():
        named[name] = index.copy()
        for b, theirs in enumerate(rows):
            later = index[b] > last
            named[name][b, later] = -1 - np.searchsorted(theirs, index[b, later])
    for b, theirs in enumerate(rows):
        keys[b, : len(theirs)] = created.keys_of(theirs)
    return named


def to_rows(index: Array, keys: Array, created: CreatedItems) -> Array:
    """Give ``[B, ...]`` int32 items with a row for each key; 0 for one nobody here knows."""
    if not (index < 0).any():
        return index
    rows = np.zeros((len(keys), keys.shape[1] + 1), dtype=index.dtype)
    for b, e in np.argwhere(keys != NO_KEY).tolist():
        rows[b, e + 1] = created.row_of(int(keys[b, e]))
    place = np.minimum(np.maximum(-index, 0), keys.shape[1])
    found: Array = np.where(index < 0, np.take_along_axis(rows, place, axis=1), index)
    return found
