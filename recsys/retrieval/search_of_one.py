"""The search by an index for one user without filters, in numpy.

It gives what ``TwoTowerSource`` gives for many, to the bit. Between two looks at a large index the
processor's cache has forgotten the code around it, and some thirty calls of torch for a hundred
numbers take as long as the index (docs/retrieval.md).

Axes: ``N`` items (row 0 is padding), ``D`` embedding, ``C`` candidates.
"""

from __future__ import annotations

import numpy as np
import torch

from recsys.features.batch import Float32s, Int64s
from recsys.retrieval.best import largest
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.live_index import LiveIndex
from recsys.retrieval.pair_products import products_at
from recsys.retrieval.source import SourceInputs
from recsys.retrieval.vector_index import Allowed


def nearest_of_one(
    index: LiveIndex, inputs: SourceInputs, count: int, excluded: Excluded, allowed: Allowed | None
) -> tuple[Float32s, Int64s] | None:
    """Give cosines and rows ``[1, count]``, nearest first.

    None: the cells that were looked into held too few, or there are not so many.

    Args:
        index: What is searched, with the rows beside it.
        inputs: Of one user, on the CPU.
        count: Wanted.
        excluded: What must not be found; no filters.
        allowed: What may be found in the index.
    """
    user = inputs.user_vectors.float().contiguous()
    most = int(np.count_nonzero(excluded.index.numpy())) if excluded.most else 0
    row = index.index.rows_near(user.numpy(), index.index.oversampled(count + most), allowed)
    local = inputs.item_vectors.local(torch.from_numpy(row))
    assert index.index.num_items < len(inputs.item_vectors), "rows of the index are in the table"
    cosine = products_at(user.numpy(), local.vectors.numpy(), local.place.numpy())
    if index.num_beside:
        beside, theirs = index.beside(inputs.item_vectors)
        row = np.concatenate([row, beside.numpy()[np.newaxis]], axis=1)
        cosine = np.concatenate([cosine, (user @ theirs.T).numpy()], axis=1)
    if row.shape[1] < count:
        return None
    cosine[0, excluded.hits_of_one(row[0])] = -np.inf
    place = largest(cosine, count)[0]
    value = cosine[:, place]
    return None if count and value[0, -1] == -np.inf else (value, row[:, place])
