"""What goes with what, for a process without torch: the neighbours that the model server has too.

The API falls back on them when the model server cannot answer: a few rows of a mapped file for each
request, no weights and no embeddings.

Axes: ``H`` items of a history, ``M`` neighbours, ``N`` items (row 0 is padding).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.bundle.item_embeddings import ITEMS_FILE
from recsys.bundle.mapped_tensors import map_tensors
from recsys.clock import DAY_MS
from recsys.errors import BundleError
from recsys.features.batch import Float32s, Int32s, Int64s


class ItemNeighbours:
    """``[N + 1, M]`` neighbour rows (0 pads) and weights."""

    def __init__(self, index: NDArray[Any], weight: NDArray[Any], *, half_life_days: float) -> None:
        """Take mapped arrays; an item of a history loses half of its say in ``half_life_days``."""
        self._index = index
        self._weight = weight
        self._half_life_ms = half_life_days * DAY_MS

    def scores(
        self, history_index: Int32s, last_ms: Int64s, *, now_ms: int
    ) -> tuple[Int32s, Float32s]:
        """Give the neighbours of a history, strongest first, and their summed, decayed weights.

        As the source ``item_to_item`` (``retrieval/item_to_item.py``). ``history_index`` ``[H]``
        are rows, ``last_ms`` ``[H]`` when each was last acted on. Only positive sums come back.
        """
        # Items that came after the table was made have no neighbours yet.
        history_index = np.where(history_index < len(self._index), history_index, 0).astype(
            np.int32
        )
        age_ms = np.maximum(now_ms - last_ms, 0)
        decay = np.exp2(-age_ms / self._half_life_ms).astype(np.float32)
        near = np.asarray(self._index[history_index]).ravel()
        weight = (
            np.asarray(self._weight[history_index], dtype=np.float32) * decay[:, None]
        ).ravel()
        rows, place = np.unique(near, return_inverse=True)
        total = np.bincount(place, weights=weight, minlength=len(rows))
        total[rows == 0] = 0.0
        found = np.flatnonzero(total > 0)
        order = found[np.argsort(-total[found], kind="stable")]
        return rows[order].astype(np.int32), total[order].astype(np.float32)


def map_item_neighbours(folder: Path, *, num_items: int, half_life_days: float) -> ItemNeighbours:
    """Map the neighbours of the bundle in ``folder``.

    Raises:
        BundleError: when the file is missing, no such file or of another number of items.
    """
    path = folder / ITEMS_FILE
    tensors = map_tensors(path, "neighbour_", "neighbours of items")
    try:
        index, weight = tensors["neighbour_index"], tensors["neighbour_weight"]
    except KeyError as error:
        raise BundleError(
            f"{path}: wanted {error}, found no such tensor; roll back or train again"
        ) from error
    if index.shape != weight.shape or len(index) != num_items + 1:
        raise BundleError(
            f"{path}: wanted neighbours of {num_items} items, found shapes {index.shape} and "
            f"{weight.shape}; roll back or train again"
        )
    return ItemNeighbours(index, weight, half_life_days=half_life_days)
