"""The items' moving features, and the ranker's item half that was computed from them.

Axes: ``N`` items (row 0 is padding), ``M`` items given, ``Fi`` moving features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.models.growing_rows import GrowingRows
from recsys.models.ranker_halves import ItemHalf
from recsys.models.target_attention import AttentionItems
from recsys.retrieval.row_changes import RowChanges


class ResidentItems:
    """What ranking reads of each item, true at one moment. Grows with the items, in place."""

    def __init__(self, activity: Tensor, half: ItemHalf, as_of_ms: int, *, room: int = 0) -> None:
        """Take ``[N + 1, Fi]`` as of a moment, its half, and how many items may be added."""
        self.as_of_ms = as_of_ms
        self.changes = RowChanges(len(activity))
        """Rows of activity and half that were written since, or whose availability was."""
        self._activity = GrowingRows(activity, room=room)
        self._half = [GrowingRows(part, room=room) for part in _parts(half)]
        self._take_rows()

    @property
    def activity(self) -> Tensor:
        """``[N + 1, Fi]``; another tensor after each growth."""
        return self._activity.rows

    @property
    def half(self) -> ItemHalf:
        """Of all N + 1 items."""
        return self._whole

    def put(self, index: Tensor, activity: Tensor, half: ItemHalf) -> None:
        """Take ``[M, ...]`` of the items ``[M]``; those from N + 1 on are added."""
        self._activity.put(index, activity)
        for growing, rows in zip(self._half, _parts(half), strict=True):
            growing.put(index, rows)
        self._take_rows()
        self.changes.add(index)

    def _take_rows(self) -> None:
        projected, factors, *attention = [growing.rows for growing in self._half]
        self._whole = ItemHalf(
            projected, factors, AttentionItems(*attention) if attention else None
        )


def _parts(half: ItemHalf) -> list[Tensor]:
    return [half.projected, half.factors, *(half.attention or ())]


def joined(first: ItemHalf, then: ItemHalf) -> ItemHalf:
    """Give the half of some items and of others after them."""
    parts = [torch.cat(pair) for pair in zip(_parts(first), _parts(then), strict=True)]
    return ItemHalf(parts[0], parts[1], AttentionItems(*parts[2:]) if first.attention else None)
