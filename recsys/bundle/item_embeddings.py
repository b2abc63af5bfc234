"""Item embeddings of a bundle for a process without torch: rows read from the file when wanted.

The file of the model server is mapped into memory, not read: a request touches the rows of its few
hundred candidates, and the pages behind them are shared by all processes of the machine and given
back by the kernel when it wants them. Nothing is copied or kept beside the file.

Axes: ``C`` wanted rows, ``N`` items (row 0 is padding), ``D`` embedding, ``M`` parts of a
product-quantised vector, ``K`` points of a part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.bundle.mapped_tensors import map_tensors, unreadable
from recsys.errors import BundleError
from recsys.features.batch import Float32s, Int32s

ITEMS_FILE = "items.safetensors"


class ItemEmbeddings:
    """``[N + 1, D]`` vectors of the item tower, decoded a few rows at a time."""

    def __init__(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Take what ``compression/item_vectors.py`` stores, as mapped arrays."""
        self._vectors = tensors["vectors"]
        self._scale = tensors.get("vector_scale")
        self._books = tensors.get("vector_books")
        self._rotation = tensors.get("vector_rotation")

    def __len__(self) -> int:
        return len(self._vectors)

    def rows(self, item_index: Int32s) -> Float32s:
        """Give ``[C, D]`` vectors of items; zeros, which are like no other, of those after N."""
        later = item_index >= len(self)
        if later.any():
            found = self.rows(np.where(later, np.int32(0), item_index))
            found[later] = 0.0
            return found
        taken = self._vectors[item_index]
        if self._books is not None and self._rotation is not None:
            parts = np.arange(taken.shape[1])
            decoded = self._books[parts, taken].reshape(len(taken), -1) @ self._rotation
            return np.asarray(decoded, dtype=np.float32)
        vectors: Float32s = taken.astype(np.float32)
        if self._scale is not None:
            vectors *= self._scale[item_index, np.newaxis]
        return vectors


def map_item_embeddings(folder: Path, *, num_items: int) -> ItemEmbeddings:
    """Map the embeddings of the bundle in ``folder``.

    Raises:
        BundleError: when the file is missing, no such file or of another number of items.
    """
    path = folder / ITEMS_FILE
    tensors = map_tensors(path, "vector", "item vectors")
    try:
        embeddings = ItemEmbeddings(tensors)
    except KeyError as error:
        raise unreadable(path, "item vectors", error) from error
    if len(embeddings) != num_items + 1:
        raise BundleError(
            f"{path}: wanted vectors of {num_items} items, found {len(embeddings) - 1}; "
            "roll back or train again"
        )
    return embeddings
