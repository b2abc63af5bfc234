"""The items nearest to given vectors: of all items, or by an index, without what is excluded.

Axes: ``B`` vectors asked about (of users, or of items), ``N`` items (row 0 is padding), ``D``
embedding, ``C`` candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.compression.item_vectors import ItemVectors
from recsys.features.batch import Float32s, Int64s
from recsys.retrieval.best import best
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.item_filter import Passing

if TYPE_CHECKING:
    from recsys.retrieval.live_index import LiveIndex
    from recsys.retrieval.vector_index import Allowed, VectorIndex  # faiss, where there is one


_Allowed: TypeAlias = "tuple[Tensor, int, Allowed | None]"
"""For one tensor of unavailable items and one state of the index."""


class NearestItems:
    """Finds the items nearest by inner product to vectors of the same space."""

    def __init__(self, index: VectorIndex | None = None) -> None:
        """Search exactly, or by ``index``; what it may not find enough of is searched exactly."""
        self.index: LiveIndex | None = None
        """What is searched, with the rows beside it; ``None``: all is searched exactly."""
        self._products = gathered_products
        if index is not None:
            from recsys.retrieval.live_index import LiveIndex
            from recsys.retrieval.pair_products import pair_products
            from recsys.retrieval.search_of_one import SearchOfOne

            self.index, self._products = LiveIndex(index), pair_products
            self._of_one = SearchOfOne()
        self._allowed: _Allowed | None = None
        self._filtered: WeakKeyDictionary[Passing, _Allowed] = WeakKeyDictionary()

    def search(
        self, items: ItemVectors, vectors: Tensor, count: int, excluded: Excluded
    ) -> tuple[Tensor, Tensor]:
        """Give products and rows ``[B, min(count, N + 1)]`` of what is nearest to ``[B, D]``.

        Largest first; -inf stands where there are no more, and the row there says nothing. Those
        with a narrow filter are held beside its items alone.
        """
        if len(vectors) == 1 and not excluded.filters:
            found = self.of_one(items, vectors, count, excluded)
            if found is not None:
                nearest, rows = found
                return torch.from_numpy(nearest), torch.from_numpy(rows)
        return self.of_many(items, vectors, count, excluded)

    def of_many(
        self, items: ItemVectors, vectors: Tensor, count: int, excluded: Excluded
    ) -> tuple[Tensor, Tensor]:
        """Give what ``search`` gives, by tensors: what ``of_one`` could not answer, too."""
        narrow = [(one.rows, users) for one, users in excluded.filters if one.rows is not None]
        if not narrow:
            return self._wide(items, vectors, count, excluded)
        value = vectors.new_full((len(vectors), count), -torch.inf)
        row = torch.zeros_like(value, dtype=torch.int64)
        others = torch.ones(len(vectors), dtype=torch.bool, device=value.device)
        for rows, users in narrow:
            others[users] = False
            theirs = _nearest_among(items, vectors[users], rows, count, excluded.of(users))
            for out, part in zip((value, row), theirs, strict=True):
                out[users, : part.shape[1]] = part
        if others.any():
            users = others.nonzero().flatten()
            value[users], row[users] = self._wide(items, vectors[users], count, excluded.of(users))
        return value, row

    def of_one(
        self, items: ItemVectors, vector: Tensor, count: int, excluded: Excluded
    ) -> tuple[Float32s, Int64s] | None:
        """Give what the index finds for ``[1, D]`` without filters, ``[1, count]`` each.

        None: there is no index, or the cells that were looked into held too few.
        """
        if self.index is None:
            return None
        one = np.ascontiguousarray(vector.numpy(), np.float32)
        allowed = self._allowed_of(self.index, excluded.unavailable, None)
        return self._of_one.nearest(self.index, one, items, count, excluded, allowed)

    def moved(self, index: Tensor) -> None:
        """Search these items exactly, beside the index."""
        if self.index is not None:
            self.index.moved(index.tolist())

    def products(self, items: ItemVectors, vectors: Tensor, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of vectors ``[B, D]`` with the items ``index``.

        The same pair has the same bits, whatever else is asked: no product of matrices, which
        rounds by its shape, by the place in it and by the number of threads.
        """
        local = items.local(index)
        return self._products(vectors, local.vectors, local.place)

    def _wide(
        self, items: ItemVectors, vectors: Tensor, count: int, excluded: Excluded
    ) -> tuple[Tensor, Tensor]:
        if self.index is None:
            return _nearest_of_all(items, vectors, count, excluded)
        return self._nearest_by(self.index, items, vectors, count, excluded)

    def _nearest_by(
        self, index: LiveIndex, items: ItemVectors, vectors: Tensor, count: int,
        excluded: Excluded,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Search by index with what nobody or a filter must not find masked in it."""
        if not excluded.filters:
            value, row = self._found_by(index, items, vectors, count, excluded, None)
        else:
            value = vectors.new_full((len(vectors), count), -torch.inf)
            row = torch.zeros_like(value, dtype=torch.int64)
            for passing, users in excluded.groups():
                theirs = self._found_by(
                    index, items, vectors[users], count, excluded.of(users), passing
                )
                width = theirs[0].shape[1]
                value[users, :width], row[users, :width] = theirs
        if value.shape[1] < count:
            return _nearest_of_all(items, vectors, count, excluded)
        if is_short(value):  # the cells looked into held too few, or there are no more
            short = (value[:, -1] == -torch.inf).nonzero().flatten()
            value[short], row[short] = _nearest_of_all(
                items, vectors[short], count, excluded.of(short)
            )
        return value, row

    def _found_by(
        self, index: LiveIndex, items: ItemVectors, vectors: Tensor, count: int,
        excluded: Excluded, passing: Passing | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Give cosines and rows of at most ``count`` that the index finds for users of a filter."""
        most = int((excluded.index != 0).sum(dim=1).max()) if excluded.most else 0
        allowed = self._allowed_of(index, excluded.unavailable, passing)
        found = index.index.search(vectors, count + most, allowed)
        cosine = self.products(items, vectors, found)
        if index.num_beside:
            rows, theirs = index.beside(items)
            found = torch.cat([found, rows.expand(len(found), -1)], dim=1)
            cosine = torch.cat([cosine, vectors @ theirs.T], dim=1)
        if most < count:  # what is excluded is looked for among so many alone, where they do
            first, place = best(cosine, count + most)
            row = found.gather(1, place)
            value, place = best(first.masked_fill_(excluded.hits(row), -torch.inf), count)
            if not is_short(value) and value.shape[1] == count:
                return value, row.gather(1, place)
        value, place = best(cosine.masked_fill_(excluded.hits(found), -torch.inf), count)
        return value, found.gather(1, place)

    def _allowed_of(
        self, index: LiveIndex, unavailable: Tensor, passing: Passing | None
    ) -> Allowed | None:
        """Give the bits of what may be found; what was withdrawn since is left out by ``hits``."""
        kept = self._allowed if passing is None else self._filtered.get(passing)
        if kept is not None and kept[0] is unavailable and kept[1] == index.state:
            return kept[2]
        refused = unavailable if passing is None else unavailable | passing.refused
        kept = unavailable, index.state, index.allowed(refused)
        if passing is None:
            self._allowed = kept
        else:
            self._filtered[passing] = kept
        return kept[2]


def gathered_products(users: Tensor, vectors: Tensor, place: Tensor) -> Tensor:
    """Give what ``pair_products`` gives, to some last bits, on any device."""
    return F.embedding(place, vectors).mul_(users.unsqueeze(1)).sum(2)


def is_short(value: Tensor) -> bool:
    """Say whether a row of ``[B, count]``, largest first, has fewer than ``count``."""
    return value.shape[1] > 0 and -torch.inf in value[:, -1].tolist()


def _nearest_of_all(
    items: ItemVectors, vectors: Tensor, count: int, excluded: Excluded
) -> tuple[Tensor, Tensor]:
    return best(excluded.mask(items.scores(vectors)), count)


def _nearest_among(
    items: ItemVectors, vectors: Tensor, rows: Tensor, count: int, excluded: Excluded
) -> tuple[Tensor, Tensor]:
    """Give products and rows ``[Bf, min(count, P)]`` of the nearest among the items ``[P]``."""
    local = items.local(rows)
    product = vectors @ F.embedding(local.place, local.vectors).T
    gone = excluded.hits(rows.expand(len(vectors), -1))
    value, place = best(product.masked_fill_(gone, -torch.inf), count)
    return value, rows[place]
