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
class _Scores:
    """Of one state of the items."""

    activity: Tensor
    version: int
    """Number of the last write to ``activity`` it knows of."""
    score: Tensor
    """``[N + 1]``."""


@dataclass(frozen=True, slots=True)
class _Order:
    """One state of the items."""

    activity: Tensor
    version: int
    unavailable: Tensor
    head: Tensor
    """The best available rows, best first."""
    floor: float
    """No row outside the head has a score above it."""


class PopularSource:
    """Weighted sum of ``log(1 + x)`` over item activity columns, the same for every user."""

    name = "popular"
    knows_all = True
    rounds_by_shape = False

    def __init__(self, column_weights: Tensor) -> None:
        """Take ``[Fi]`` weights of the activity columns."""
        self.column_weights = column_weights
        self._score: _Scores | None = None
        self._last: _Order | None = None
        self._filtered: WeakKeyDictionary[Passing, _Order] = WeakKeyDictionary()

    def item_scores(self, item_activity: Tensor) -> Tensor:
        """Give ``[N + 1]`` scores."""
        # No product of matrices: its last bits depend on how many rows there are.
        return (item_activity.clamp(min=0).log1p() * self.column_weights).sum(1)

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
        score = self._scored(inputs)
        order = self._ordered(inputs, score, excluded.unavailable, wanted, passing)
        index = order.head[:wanted].expand(size, -1)
        missing = excluded.hits(index)
        # Allowed ones first, each in its order.
        place = missing.to(torch.int8).argsort(dim=1, stable=True)[:, :count]
        missing = missing.gather(1, place)
        index = index.gather(1, place).masked_fill_(missing, 0)
        return Found(index, score[index].masked_fill_(missing, 0.0))

    def scores(self, inputs: SourceInputs, index: Tensor) -> Tensor:
        """Give ``[B, C]`` of the items ``index``."""
        return self._scored(inputs)[index]

    def all_scores(self, inputs: SourceInputs) -> Tensor:
        """Give ``[B, N + 1]``, a view of one row."""
        return self._scored(inputs).expand(len(inputs.user_vectors), -1)

    def _scored(self, inputs: SourceInputs) -> Tensor:
        """Give ``[N + 1]``; of rows that were written since, and no others, it is made anew."""
        last, activity, version = self._score, inputs.item_activity, inputs.item_changes.version
        rows = None
        if last is not None and _same(last.activity, activity):
            if last.version == version:
                return last.score
            rows = inputs.item_changes.since(last.version)
        if last is None or rows is None:
            score = self.item_scores(activity)
        else:
            score = last.score
            if len(activity) > len(score):  # rows were added, and are among those written
                score = torch.cat([score, score.new_empty(len(activity) - len(score))])
            score[rows] = self.item_scores(activity[rows])
        self._score = _Scores(activity, version, score)
        return score

    def _ordered(
        self, inputs: SourceInputs, score: Tensor, unavailable: Tensor, wanted: int,
        passing: Passing | None,
    ) -> _Order:  # fmt: skip
        """Give the order in force, kept until activity or availability change."""
        last = self._last if passing is None else self._filtered.get(passing)
        num_rows = len(unavailable)
        if passing is not None and passing.rows is not None:
            num_rows = len(passing.rows)
        length = min(max(wanted, _HEAD), num_rows)
        if last is not None:
            last = _followed(last, inputs, score, unavailable, length, passing)
        if last is None or len(last.head) < min(wanted, num_rows):
            head, floor = _highest(score, unavailable, length, passing)
            last = _Order(
                inputs.item_activity, inputs.item_changes.version, unavailable, head,
                -torch.inf if length == num_rows else floor,
            )  # fmt: skip
        if passing is None:
            self._last = last
        else:
            self._filtered[passing] = last
        return last

    def to(self, device: torch.device) -> PopularSource:
        """Give the source with its weights on ``device``."""
        return PopularSource(self.column_weights.to(device))


def _followed(
    order: _Order, inputs: SourceInputs, score: Tensor, unavailable: Tensor, length: int,
    passing: Passing | None,
) -> _Order | None:  # fmt: skip
    """Give the order with the rows that were written since; None when it must be made anew.

    What left the head, and what did not get into it, lies at the floor or below; so the rest is
    the best there is, in order. A row that was added, or whose availability changed, is one that
    was written.
    """
    if not _same(order.activity, inputs.item_activity):
        return None
    if not _same(order.unavailable, unavailable):
        return None
    version = inputs.item_changes.version
    if order.version == version:
        return order
    rows = inputs.item_changes.since(order.version)
    if rows is None:
        return None
    if passing is not None:
        rows = rows[~passing.refused[rows]]
    rows = torch.unique(torch.cat([order.head, rows]))
    best = score[rows].masked_fill(unavailable[rows], -torch.inf)
    keep = best >= order.floor
    best, place = best[keep].sort(descending=True)
    head, floor = rows[keep][place], order.floor
    if len(head) > 2 * length:
        head, floor = head[:length], float(best[length - 1])
    return _Order(inputs.item_activity, version, unavailable, head, floor)


def _same(table: Tensor, other: Tensor) -> bool:
    """Say whether both are one table: it may have grown within its memory."""
    return table.data_ptr() == other.data_ptr()


def _highest(
    score: Tensor, unavailable: Tensor, length: int, passing: Passing | None
) -> tuple[Tensor, float]:
    """Give the ``length`` best rows among what passes, the others last, and the least score."""
    if passing is not None and passing.rows is not None:
        rows = passing.rows
        theirs = score[rows].masked_fill(unavailable[rows], -torch.inf).topk(length)
        return rows[theirs.indices], _least(theirs.values)
    gone = unavailable if passing is None else unavailable | passing.refused
    found = score.masked_fill(gone, -torch.inf).topk(length)
    return found.indices, _least(found.values)


def _least(values: Tensor) -> float:
    return float(values[-1]) if len(values) else -torch.inf
