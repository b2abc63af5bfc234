"""The same event twice in the log counts once, within a bounded horizon.

An event is a duplicate when its id occurs among the ``HORIZON`` records before it in its partition.
All events of a user lie in one partition, and what is a duplicate follows from the log alone: a
worker that starts anew reads those records again and decides as the one before it would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

HORIZON = 10_000
"""Records of a partition looked back over: some 2 MB of ids, and a tenth of a second to read
again at start. A sender that retries repeats itself within seconds."""


@dataclass
class _Piece:
    """Some records that follow each other."""

    end: int = -1
    """Offset of the last."""
    latest: dict[str, int] = field(default_factory=dict)
    """Offset of the latest record of each event id."""


class DuplicateWindow:
    """Event ids of the latest records of one partition.

    In pieces, which are forgotten whole: each id by itself would cost as much as noting it.
    """

    def __init__(self, horizon: int = HORIZON) -> None:
        self._horizon = horizon
        self._enough = horizon // 4
        """Event ids from which on a piece takes no more."""
        self._pieces = deque([_Piece()])

    def duplicates(self, event_ids: Sequence[str], offsets: Sequence[int]) -> list[int]:
        """Note records in order; gives the places of those whose id occurred shortly before."""
        if not event_ids:
            return []
        noted = dict(zip(event_ids, offsets, strict=True))
        if len(noted) == len(event_ids) and all(
            piece.latest.keys().isdisjoint(noted) for piece in self._pieces
        ):
            piece = self._piece(offsets[-1])
            piece.latest.update(noted)
            piece.end = max(piece.end, offsets[-1])
            return []
        seen = self.seen_before
        pairs = zip(event_ids, offsets, strict=True)
        return [n for n, (event_id, offset) in enumerate(pairs) if seen(event_id, offset)]

    def seen_before(self, event_id: str, offset: int) -> bool:
        """Note the record, and say whether its id occurred shortly before it."""
        newest = self._piece(offset)
        found = (piece.latest.get(event_id) for piece in reversed(self._pieces))
        previous = next((one for one in found if one is not None), offset)
        newest.latest[event_id] = offset
        newest.end = max(newest.end, offset)
        return offset - self._horizon <= previous < offset

    def _piece(self, offset: int) -> _Piece:
        """Give the piece that this record belongs to; forgets those too far before it."""
        if len(self._pieces[-1].latest) >= self._enough:
            self._pieces.append(_Piece())
        while len(self._pieces) > 1 and self._pieces[0].end < offset - self._horizon:
            self._pieces.popleft()
        return self._pieces[-1]
