"""Source ``popular``: what everybody acts on at the moment, read from the moving item features."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from recsys.retrieval.excluded import Excluded
from recsys.retrieval.item_filter import Passing
from recsys.retrieval.source import Found, SourceInputs

_HEAD = 4096
"""Items kept in order, at least; more when a request excludes more."""


@dataclass(frozen=True, slots=True)
class _Order:
    """One state of the items."""

    activity: Tensor
    unavailable: Tensor
    score: Tensor
    """``[N + 1]``."""
    head: Tensor
    """The best available rows, best first."""


class PopularSource:
    """Weighted sum of ``log(1 + x)`` over item activity columns, the same for every user."""

    name = "popular"
    knows_all = True

    def __init__(self, column_weights: Tensor) -> None:
        """Take ``[Fi]`` weights of the activity columns."""
        self.column_weights = column_weights
        self._score: tuple[Tensor, Tensor] | None = None
        self._last: _Order | None = None
        self._filtered: WeakKeyDictionary[Passing, _Order] = WeakKeyDictionary()

    def item_scores(self, item_activity: Tensor) -> Tensor:
        """Give ``[N + 1]`` scores."""
        return item_activity.clamp(min=0).log1p() @ self.column_weights

    def search(self, inputs: SourceInputs, count: int, excluded: Excluded) -> Found:
        """Give the same order to everybody, each without what is excluded."""
        if not excluded.filters:
            return self._first(inputs, None, len(inputs.user_vectors), count, excluded)
        score = inputs.item_activity.new_zeros(len(inputs.user_vectors), count)
        item = torch.zeros_like(score, dtype=torch.int64)
        for passing, users in excluded.groups():
            theirs = self._first(inputs, passing, len(users), count, excluded.of(users))
            item[users, : theirs.item.shape[1]] = theirs.item
            score[users, : theirs.item.shape[1]] = theirs.score
        return Found(item, score)

    def _first(
        self, inputs: SourceInputs, passing: Passing | None, size: int, count: int,
        excluded: Excluded,
    ) -> Found:  # fmt: skip
        """Give the order among what passes to ``size`` users, each without what is excluded."""
        wanted = count + excluded.most
        order = self._ordered(inputs.item_activity, excluded.unavailable, wanted, passing)
        index = order.head[:wanted].expand(size, -1)
        missing = excluded.hits(index)
        # Allowed ones first, each in its order.
        place = missing.to(torch.int8).argsort(dim=1, stable=True)[:, :count]
        missing = missing.gather(1, place)
        index = index.gather(1, place).masked_fill_(missing, 0)
        return Found(index, order.score[index].masked_fill_(missing, 0.0))

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of the items ``index``."""
        return self._scored(inputs.item_activity)[index]

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``, a view of one row."""
        return self._scored(inputs.item_activity).expand(len(inputs.user_vectors), -1)

    def _scored(self, activity: Tensor) -> Tensor:
        """Give ``[N + 1]``, computed once per refresh of the activity."""
        last = self._score
        if last is None or last[0] is not activity:
            last = self._score = activity, self.item_scores(activity)
        return last[1]

    def _ordered(
        self, activity: Tensor, unavailable: Tensor, wanted: int, passing: Passing | None
    ) -> _Order:
        """Give the order in force, kept until activity or availability change."""
        last = self._last if passing is None else self._filtered.get(passing)
        num_rows = len(unavailable)
        if passing is not None and passing.rows is not None:
            num_rows = len(passing.rows)
        if (
            last is None
            or last.activity is not activity
            or last.unavailable is not unavailable
            or len(last.head) < min(wanted, num_rows)
        ):
            score = self._scored(activity)
            length = min(max(wanted, _HEAD), num_rows)
            head = _highest(score, unavailable, length, passing)
            last = _Order(activity, unavailable, score, head)
            if passing is None:
                self._last = last
            else:
                self._filtered[passing] = last
        return last

    def to(self, device: torch.device) -> PopularSource:
        """Give the source with its weights on ``device``."""
        return PopularSource(self.column_weights.to(device))


def _highest(score: Tensor, unavailable: Tensor, length: int, passing: Passing | None) -> Tensor:
    """Give the ``length`` best rows of ``[N + 1]`` scores among what passes; the others last."""
    if passing is None:
        return score.masked_fill(unavailable, -torch.inf).topk(length).indices
    if passing.rows is None:
        gone = unavailable | passing.refused
        return score.masked_fill(gone, -torch.inf).topk(length).indices
    theirs = score[passing.rows].masked_fill(unavailable[passing.rows], -torch.inf)
    return passing.rows[theirs.topk(length).indices]
