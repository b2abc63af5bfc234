"""Inner products of users with items of their own each, read where the items' vectors lie.

To gather vectors, multiply and sum writes each vector before it is used, in three calls. faiss
reads them in place in one. For what is searched by an index: a bundle without one loads no faiss.

Axes: ``B`` users, ``C`` items of each, ``M`` vectors, ``D`` embedding.
"""

from __future__ import annotations

import faiss
import numpy as np
import torch
from torch import Tensor

from recsys.features.batch import Float32s, Int64s
from recsys.retrieval.vector_index import use_threads_for


def pair_products(users: Tensor, vectors: Tensor, place: Tensor) -> Tensor:
    """Give ``[B, C]`` products of ``[B, D]`` with the rows ``place`` ``[B, C]`` of ``[M, D]``.

    float32, on the CPU. The same pair has the same bits, whatever else is asked.

    Raises:
        IndexError: when a place is outside the table.
    """
    wanted = place.contiguous().numpy()
    # A negative number is a large one without its sign.
    if wanted.size and wanted.view(np.uint64).max() >= len(vectors):
        raise IndexError(
            f"wanted places from 0 to {len(vectors) - 1}, found {wanted.min()} to {wanted.max()}"
        )
    asking, table = users.float().contiguous(), vectors.float().contiguous()
    return torch.from_numpy(products_at(asking.numpy(), table.numpy(), wanted))


def products_at(users: Float32s, vectors: Float32s, place: Int64s) -> Float32s:
    """Do the same for contiguous arrays. Places must be in the table: they are read by address."""
    product = np.empty(place.shape, np.float32)
    if product.size:
        use_threads_for(len(users))
        faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]  # its stubs miss it
            faiss.swig_ptr(product), faiss.swig_ptr(users), faiss.swig_ptr(vectors),
            faiss.swig_ptr(place), vectors.shape[1], *place.shape,
        )  # fmt: skip
    return product
