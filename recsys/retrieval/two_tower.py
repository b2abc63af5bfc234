"""Source ``two_tower``: how near an item is to the user, against how near others are."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.compression.item_vectors import ItemVectors
from recsys.retrieval.best import best
from recsys.retrieval.excluded import Excluded
from recsys.retrieval.item_filter import Passing
from recsys.retrieval.moments import Moments
from recsys.retrieval.source import Found, SourceInputs

if TYPE_CHECKING:
    from recsys.retrieval.live_index import LiveIndex
    from recsys.retrieval.vector_index import Allowed, VectorIndex  # faiss, where there is one


_Allowed: TypeAlias = "tuple[Tensor, int, Allowed | None]"
"""For one tensor of unavailable items and one state of the index."""
_OF_ONE = "two_tower moments of one"
"""What a call's mean and deviation are kept by, where it is of one user."""


class TwoTowerSource:
    """Nearest items by inner product. It alone knows items that were never interacted with.

    A score is a cosine in standard deviations from the user's mean over the catalogue. Towers that
    are trained further spread their cosines wider; so standardised the score keeps its meaning for
    a ranker that learned from the towers before. Mean and deviation come from the first two
    moments of the items' vectors (``moments.py``).
    """

    name = "two_tower"
    knows_all = True
    rounds_by_shape = True

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
        self._moments: tuple[ItemVectors, Moments] | None = None

    def search(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found:
        """Give the nearest items, exactly; users of a narrow filter are held beside its items."""
        if self.index is not None and len(inputs.user_vectors) == 1 and not excluded.filters:
            found = self._search_for_one(self.index, inputs, count, excluded)
            if found is not None:
                return found
        narrow = [(one.rows, users) for one, users in excluded.filters if one.rows is not None]
        if not narrow:
            value, index = self._nearest(inputs, inputs.user_vectors, count, excluded)
        else:
            size = len(inputs.user_vectors)
            value = inputs.user_vectors.new_full((size, count), -torch.inf)
            index = torch.zeros_like(value, dtype=torch.int64)
            others = torch.ones(size, dtype=torch.bool, device=value.device)
            for rows, users in narrow:
                others[users] = False
                theirs = _nearest_of(inputs, users, rows, count, excluded)
                for out, part in zip((value, index), theirs, strict=True):
                    out[users, : part.shape[1]] = part
            if others.any():
                users = others.nonzero().flatten()
                vectors = inputs.user_vectors[users]
                value[users], index[users] = self._nearest(
                    inputs, vectors, count, excluded.of(users)
                )
        score = self._standardised(inputs, value)
        if _is_short(value):
            missing = value == -torch.inf
            index, score = index.masked_fill(missing, 0), score.masked_fill(missing, 0)
        return Found(index, score)

    def before_moving(self, vectors: ItemVectors) -> None:
        """Take the moments: a score means the same however many items come or change."""
        self._of_items(vectors)

    def moved(self, index: Tensor) -> None:
        """Search these items exactly, beside the index."""
        if self.index is not None:
            self.index.moved(index.tolist())

    def _nearest(
        self, inputs: SourceInputs, vectors: Tensor, count: int, excluded: Excluded
    ) -> tuple[Tensor, Tensor]:
        """Give cosines and rows ``[B, count]`` of the items nearest to ``[B, D]``."""
        if self.index is not None:
            return self._nearest_by(self.index, inputs, vectors, count, excluded)
        return self._nearest_of_all(inputs, vectors, count, excluded)

    def _nearest_of_all(
        self, inputs: SourceInputs, vectors: Tensor, count: int, excluded: Excluded
    ) -> tuple[Tensor, Tensor]:
        return best(excluded.mask(inputs.item_vectors.scores(vectors)), count)

    def _nearest_by(
        self, index: LiveIndex, inputs: SourceInputs, vectors: Tensor, count: int,
        excluded: Excluded,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Search by index with what nobody or a filter must not find masked in it."""
        if not excluded.filters:
            value, row = self._found_by(index, inputs, vectors, count, excluded, None)
        else:
            value = vectors.new_full((len(vectors), count), -torch.inf)
            row = torch.zeros_like(value, dtype=torch.int64)
            for passing, users in excluded.groups():
                theirs = self._found_by(
                    index, inputs, vectors[users], count, excluded.of(users), passing
                )
                width = theirs[0].shape[1]
                value[users, :width], row[users, :width] = theirs
        if value.shape[1] < count:
            return self._nearest_of_all(inputs, vectors, count, excluded)
        if _is_short(value):  # the cells looked into held too few, or there are no more
            short = (value[:, -1] == -torch.inf).nonzero().flatten()
            value[short], row[short] = self._nearest_of_all(
                inputs, vectors[short], count, excluded.of(short)
            )
        return value, row

    def _found_by(
        self, index: LiveIndex, inputs: SourceInputs, vectors: Tensor, count: int,
        excluded: Excluded, passing: Passing | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Give cosines and rows of at most ``count`` that the index finds for users of a filter."""
        most = int((excluded.index != 0).sum(dim=1).max()) if excluded.most else 0
        allowed = self._allowed_of(index, excluded.unavailable, passing)
        found = index.index.search(vectors, count + most, allowed)
        cosine = self._cosines(inputs, vectors, found)
        if index.num_beside:
            rows, theirs = index.beside(inputs.item_vectors)
            found = torch.cat([found, rows.expand(len(found), -1)], dim=1)
            cosine = torch.cat([cosine, vectors @ theirs.T], dim=1)
        if most < count:  # what is excluded is looked for among so many alone, where they do
            first, place = best(cosine, count + most)
            row = found.gather(1, place)
            value, place = best(first.masked_fill_(excluded.hits(row), -torch.inf), count)
            if not _is_short(value) and value.shape[1] == count:
                return value, row.gather(1, place)
        value, place = best(cosine.masked_fill_(excluded.hits(found), -torch.inf), count)
        return value, found.gather(1, place)

    def _search_for_one(
        self, index: LiveIndex, inputs: SourceInputs, count: int, excluded: Excluded
    ) -> Found | None:
        """Search for a user without filters; None: too few are near, and all must be searched."""
        user = np.ascontiguousarray(inputs.user_vectors.numpy(), np.float32)
        allowed = self._allowed_of(index, excluded.unavailable, None)
        nearest = self._of_one.nearest(index, user, inputs.item_vectors, count, excluded, allowed)
        if nearest is None:
            return None
        value, row = nearest
        mean, deviation = inputs.once(
            _OF_ONE, lambda: self._of_items(inputs.item_vectors).of_one(user[0])
        )
        value -= mean
        value /= deviation
        return Found(torch.from_numpy(row[np.newaxis]), torch.from_numpy(value[np.newaxis]))

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

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of the items ``index``."""
        return self._standardised(inputs, self._cosines(inputs, inputs.user_vectors, index))

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``."""
        return self._standardised(inputs, inputs.item_vectors.scores(inputs.user_vectors))

    def _standardised(self, inputs: SourceInputs, cosine: Tensor) -> Tensor:
        """Give ``[B, C]`` cosines less the mean, in deviations."""
        mean, deviation = self._moments_of(inputs)
        return (cosine - mean).div_(deviation)

    def _moments_of(self, inputs: SourceInputs) -> tuple[Tensor, Tensor]:
        """Give each user's mean and deviation ``[B, 1]``."""
        return inputs.once("two_tower moments", lambda: self._new_moments(inputs))

    def _new_moments(self, inputs: SourceInputs) -> tuple[Tensor, Tensor]:
        users, of = inputs.user_vectors, self._of_items(inputs.item_vectors)
        if len(users) != 1 or users.device.type != "cpu":
            return of.of(users)
        both = inputs.once(_OF_ONE, lambda: of.of_one(users.numpy()[0]))
        mean, deviation = (torch.from_numpy(np.full((1, 1), moment)) for moment in both)
        return mean, deviation

    def _of_items(self, vectors: ItemVectors) -> Moments:
        """Give the moments of a table of vectors, computed once."""
        last = self._moments
        if last is None or last[0] is not vectors:
            last = self._moments = vectors, Moments(vectors)
        return last[1]

    def _cosines(self, inputs: SourceInputs, users: Tensor, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of users ``[B, D]`` with the items ``index``.

        The same pair has the same bits, whatever else is asked: no product of matrices, which
        rounds by its shape, by the place in it and by the number of threads.
        """
        local = inputs.item_vectors.local(index)
        return self._products(users, local.vectors, local.place)


def _is_short(value: Tensor) -> bool:
    """Say whether a row of ``[B, count]``, largest first, has fewer than ``count``."""
    return value.shape[1] > 0 and -torch.inf in value[:, -1].tolist()


def gathered_products(users: Tensor, vectors: Tensor, place: Tensor) -> Tensor:
    """Give what ``pair_products`` gives, to some last bits, on any device."""
    return F.embedding(place, vectors).mul_(users.unsqueeze(1)).sum(2)


def _nearest_of(
    inputs: SourceInputs, users: Tensor, rows: Tensor, count: int, excluded: Excluded
) -> tuple[Tensor, Tensor]:
    """Give cosines and rows ``[Bf, min(count, P)]`` of the nearest among the items ``[P]``."""
    local = inputs.item_vectors.local(rows)
    cosine = inputs.user_vectors[users] @ F.embedding(local.place, local.vectors).T
    gone = excluded.of(users).hits(rows.expand(len(users), -1))
    value, place = best(cosine.masked_fill_(gone, -torch.inf), count)
    return value, rows[place]
