"""The search by an index for one user without filters, in numpy.

It gives what ``NearestItems`` gives for many, to the bit. Between two looks at a large index the
processor's cache has forgotten the code around it, and some thirty calls of torch for a hundred
numbers take as long as the index (docs/retrieval.md). So nothing of torch is called between the
user's vector and what was found: tables are handed over once and kept as arrays.

Axes: ``N`` items (row 0 is padding), ``D`` embedding, ``C`` candidates.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.compression.item_vectors import Float32Vectors, ItemVectors
from recsys.features.batch import Bools, Float32s, Int64s
from recsys.retrieval.best import largest_of_one
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.live_index import LiveIndex
from recsys.retrieval.pair_products import products_at
from recsys.retrieval.vector_index import Allowed


class SearchOfOne:
    """Searches for one user after another, with the tables it reads kept as arrays."""

    def __init__(self) -> None:
        self._table, self._unavailable = _LastArray(), _LastArray()

    def nearest(
        self, index: LiveIndex, user: Float32s, vectors: ItemVectors, count: int,
        excluded: Excluded, allowed: Allowed | None,
    ) -> tuple[Float32s, Int64s] | None:  # fmt: skip
        """Give cosines and rows ``[1, count]``, nearest first.

        None: the cells that were looked into held too few, or there are not so many.

        Args:
            index: What is searched, with the rows beside it.
            user: ``[1, D]`` contiguous.
            vectors: ``[N + 1, D]``, on the CPU.
            count: Wanted.
            excluded: What must not be found; no filters.
            allowed: What may be found in the index.
        """
        most = int(np.count_nonzero(excluded.index.numpy())) if excluded.most else 0
        found = index.index
        row = found.rows_near_one(user, found.oversampled(count + most), allowed)
        if isinstance(vectors, Float32Vectors):
            table: Float32s = self._table.of(vectors.decoded())
            assert found.num_items < len(table), "rows of the index are in the table"
            cosine = products_at(user, table, row)
        else:  # what appears is decoded
            local = vectors.local(torch.from_numpy(row))
            cosine = products_at(user, local.vectors.numpy(), local.place.numpy())
        if index.num_beside:
            beside, theirs = index.beside(vectors)
            row = np.concatenate([row, beside.numpy()[np.newaxis]], axis=1)
            others = (torch.from_numpy(user) @ theirs.T).numpy()
            cosine = np.concatenate([cosine, others], axis=1)
        if row.shape[1] < count:
            return None
        unavailable: Bools = self._unavailable.of(excluded.unavailable)
        place = largest_of_one(cosine[0], min(count + most, row.shape[1]))[np.newaxis]
        first = row.take(place)  # what is excluded is looked for among so many alone
        hits = excluded.hits_of_one(first, unavailable)
        if not most and not np.count_nonzero(hits):
            return cosine.take(place), first
        left = place[~hits][np.newaxis, :count]
        if left.shape[1] < count:
            np.putmask(cosine, excluded.hits_of_one(row, unavailable), -np.inf)
            left = largest_of_one(cosine[0], count)[np.newaxis]
        value = cosine.take(left)
        return None if count and value[0, -1] == -np.inf else (value, row.take(left))


class _LastArray:
    """The array over the memory of the tensor that was asked for last: writes to it are seen."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Any] | None = None

    def of(self, tensor: Tensor) -> Any:
        """Give the array of a tensor on the CPU, which is kept until another is asked for."""
        last = self._last
        if last is None or last[0] is not tensor:
            last = self._last = tensor, tensor.numpy()
        return last[1]
