"""Item embeddings of a byte for every four elements: product quantisation after a rotation.

The space is rotated so that its parts of four axes are as independent and as evenly filled as can
be (OPQ), and each part of a vector is replaced by the nearest of 256 points learned for that part.
A user's products with those points are computed once, and an item's score is a sum of ``M`` looked
up values: no vector is decoded.

Code books are learned by faiss; scores and decoding are torch, so that a server needs no faiss.

Sources: Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search", section III
(asymmetric distances, here of inner products); Ge et al. 2013, "Optimized Product Quantization",
section 3.1 (rotation and books in turn).

Axes: ``B`` users, ``N`` items (row 0 is padding), ``D`` embedding, ``M`` parts, ``K`` = 256 points.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.compression.local_vectors import LocalVectors, appearing
from recsys.errors import InputError
from recsys.models.growing_rows import GrowingRows

PART_SIZE = 4
"""Elements that share a byte."""
NUM_POINTS = 256
"""K: what a byte can name."""


class ProductQuantisedVectors:
    """``ItemVectors`` of ``D / 4`` bytes each."""

    def __init__(self, codes: Tensor, books: Tensor, rotation: Tensor) -> None:
        """Take ``[N + 1, M]`` uint8 codes, ``[M, K, D / M]`` books and the ``[D, D]`` rotation.

        ``rotation @ x`` is what the books describe.
        """
        self._growing = GrowingRows(codes, room=0)
        self._books = books
        self._rotation = rotation

    @property
    def _codes(self) -> Tensor:
        return self._growing.rows

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._codes.device

    def scores(self, users: Tensor) -> Tensor:
        """Give ``[B, N + 1]`` inner products of exact users and approximate items."""
        parts = (users @ self._rotation.T).view(len(users), len(self._books), -1)
        table = torch.einsum("bmd,mkd->mbk", parts, self._books)
        out = users.new_zeros(len(users), len(self))
        for part in range(len(self._books)):
            out += table[part].index_select(1, self._codes[:, part].int())
        out[:, 0] = 0.0
        return out

    def local(self, index: Tensor) -> LocalVectors:
        """Give the decoded rows of the items that appear."""
        row, place = appearing(index)
        return LocalVectors(place, self._decode(self._codes[row]) * (row != 0).unsqueeze(1), row)

    def decoded(self) -> Tensor:
        """Give ``[N + 1, D]`` float32, row 0 zero."""
        vectors = self._decode(self._codes)
        vectors[0] = 0.0
        return vectors

    def tensors(self) -> dict[str, Tensor]:
        """Give ``vectors`` (codes, uint8), ``vector_books`` and ``vector_rotation``."""
        return {
            "vectors": self._codes,
            "vector_books": self._books,
            "vector_rotation": self._rotation,
        }

    def make_room(self, room: int) -> None:
        """Let so many items be added."""
        self._growing = GrowingRows(self._codes, room=room)

    def put(self, index: Tensor, vectors: Tensor) -> None:
        """Take ``[M, D]`` at ``[M]`` rows, each part as the nearest point of its book."""
        parts = (vectors @ self._rotation.T).view(len(vectors), len(self._books), -1)
        distance = torch.cdist(parts.transpose(0, 1), self._books)
        self._growing.put(index, distance.argmin(dim=2).T.to(self._codes.dtype))

    def _decode(self, codes: Tensor) -> Tensor:
        parts = [
            F.embedding(codes[:, part].int(), points) for part, points in enumerate(self._books)
        ]
        return torch.cat(parts, dim=1) @ self._rotation


def fit_product_quantised(vectors: Tensor, *, seed: int = 1) -> ProductQuantisedVectors:
    """Learn books for ``[N + 1, D]`` vectors and encode them; the same seed gives the same bytes.

    Raises:
        InputError: when there are fewer than 256 items or D is no multiple of 4.
    """
    import faiss

    num_items, size = len(vectors) - 1, vectors.shape[1]
    if num_items < NUM_POINTS or size % PART_SIZE:
        raise InputError(
            f"product quantisation wants {NUM_POINTS} items or more and an embedding size that is "
            f"a multiple of {PART_SIZE}, found {num_items} items of size {size}; "
            "use int8 item vectors"
        )
    rows = np.ascontiguousarray(vectors[1:].float().cpu().numpy())
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums in one order: the bytes are part of a bundle's id
    try:
        quantiser = faiss.ProductQuantizer(size, size // PART_SIZE, 8)
        quantiser.cp.seed = seed
        quantiser.cp.min_points_per_centroid = 1
        rotation = faiss.OPQMatrix(size, size // PART_SIZE)
        rotation.pq = quantiser
        rotation.train(rows)
        turned = rotation.apply(rows)
        quantiser.train(turned)
        codes = quantiser.compute_codes(turned)
    finally:
        faiss.omp_set_num_threads(threads)
    books = faiss.vector_to_array(quantiser.centroids).reshape(-1, NUM_POINTS, PART_SIZE)
    matrix = faiss.vector_to_array(rotation.A).reshape(size, size)
    padded = np.concatenate([np.zeros_like(codes[:1]), codes])
    return ProductQuantisedVectors(
        torch.from_numpy(padded), torch.from_numpy(books.copy()), torch.from_numpy(matrix.copy())
    )
