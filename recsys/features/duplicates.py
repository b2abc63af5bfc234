"""The same event twice in the log counts once, within a bounded horizon.

An event is a duplicate when its id occurs among the ``HORIZON`` records before it in its partition.
All events of a user lie in one partition, and what is a duplicate follows from the log alone: a
worker that starts anew reads those records again and decides as the one before it would have.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

HORIZON = 10_000
"""Records of a partition looked back over: some 2 MB of ids, and a tenth of a second to read
again at start. A sender that retries repeats itself within seconds."""


class DuplicateWindow:
    """Event ids of the latest records of one partition."""

    def __init__(self, horizon: int = HORIZON) -> None:
        self._horizon = horizon
        self._latest: dict[str, int] = {}
        self._order: deque[tuple[int, str]] = deque()

    def duplicates(self, event_ids: Sequence[str], offsets: Sequence[int]) -> list[int]:
        """Note records in order; gives the places of those whose id occurred shortly before."""
        latest = self._latest
        if len(set(event_ids)) < len(event_ids) or not latest.keys().isdisjoint(event_ids):
            seen = self.seen_before
            pairs = zip(event_ids, offsets, strict=True)
            return [n for n, (event_id, offset) in enumerate(pairs) if seen(event_id, offset)]
        latest.update(zip(event_ids, offsets, strict=True))
        self._order.extend(zip(offsets, event_ids, strict=True))
        if offsets:
            self._forget_before(offsets[-1] - self._horizon)
        return []

    def seen_before(self, event_id: str, offset: int) -> bool:
        """Note the record, and say whether its id occurred shortly before it."""
        self._forget_before(offset - self._horizon)
        latest = self._latest
        previous = latest.get(event_id, offset)
        latest[event_id] = offset
        self._order.append((offset, event_id))
        return previous < offset

    def _forget_before(self, limit: int) -> None:
        order, latest = self._order, self._latest
        while order and order[0][0] < limit:
            old_offset, old_id = order.popleft()
            if latest.get(old_id) == old_offset:
                del latest[old_id]
